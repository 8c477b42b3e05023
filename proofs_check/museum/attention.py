"""False claims about prompts and prefixes."""

from __future__ import annotations

import random
from fractions import Fraction

from proofs_check.museum.false_claim import FalseClaim, Refutation


def _layer(tokens: list[Fraction], value: int, extra: Fraction | None) -> list[Fraction]:
    """One bidirectional layer with queries 0: uniform attention over all tokens and a prefix value."""
    values = [value * x for x in tokens] + ([] if extra is None else [extra])
    return [x + sum(values, Fraction()) / len(values) for x in tokens]


def prompt_is_prefix() -> Refutation | None:
    """Draw two layers of width 1 with zero queries: all scores are 0, and the softmax is exactly uniform.

    There a prefix adds a constant to each layer, so how the output differs between two inputs is the same for
    every prefix of length 1; the soft prompt has to give that difference too.
    """
    rng = random.Random(0)
    for _ in range(1000):
        first, second, prompt = (rng.randint(-3, 3) for _ in range(3))
        inputs = [[Fraction(rng.randint(-3, 3)) for _ in range(2)] for _ in range(2)]
        prompted, prefixed = [], []
        for x in inputs:
            prompted.append(_layer(_layer([Fraction(prompt), *x], first, None), second, None)[1])
            prefixed.append(_layer(_layer(x, first, Fraction(0)), second, Fraction(0))[0])
        wanted, possible = prompted[1] - prompted[0], prefixed[1] - prefixed[0]
        if wanted != possible:
            a, b = (f"({', '.join(map(str, x))})" for x in inputs)
            return Refutation(
                "exact",
                {"values": (first, second), "prompt": prompt, "inputs": inputs, "differ": (wanted, possible)},
                f"two layers of width 1, queries 0, values {first}x and {second}x, prompt {prompt}: between "
                f"the inputs {a} and {b} the prompted output changes by {wanted}, under every prefix of "
                f"length 1 by {possible}",
            )
    return None


CLAIMS = {
    "prompt-is-prefix": FalseClaim(
        "A soft prompt of k tokens is a prefix of k keys and values a layer that does not depend on the "
        "input, also without a causal mask.",
        "prompt tuning as a special case of prefix tuning, said of encoders",
        "T26: with a causal mask and the prompt first it is",
        prompt_is_prefix,
    ),
}
