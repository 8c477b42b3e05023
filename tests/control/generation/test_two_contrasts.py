"""Two contrasts at once, from labelled texts to generated ones: the barriers of both hold on every token."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from contrasted import texts
from tiny_models import tiny

from deltatheory.control.generation import contrast, generate, half_spaces, load_policy, save_policy

PROMPTS = ["a b c d", "e f", "g h i"]
LAYERS, BANDS = (0, 1), [(1.5, None), (1.0, 3.0)]
ROUNDING = 1e-9
NEW = {"max_new_tokens": 6, "batch_size": 1}  # alone, a text has no padding: every state counts


@pytest.fixture(scope="module")
def backbone():
    return tiny("llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def pair(backbone):
    """Contrasts of the letters of a text, and of how it ends."""
    some, late = texts(32)
    ends = np.random.default_rng(1).random(len(some)) < 0.5
    marked = [f"{text} {'k l k l' if end else 'e f e f'}" for text, end in zip(some, ends, strict=True)]
    return contrast(backbone, marked, late), contrast(backbone, marked, ends.tolist())


@contextmanager
def scores(backbone, pair):
    """Collect what both probes read behind each block, in gaps: what the next module gets."""
    seen: list[list[torch.Tensor]] = [[] for _ in LAYERS]

    def look(t, _module, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        read = [(x[0] - one.lower[t]) @ one.probes[t] for one in pair]
        seen[t].append(torch.stack(read, -1))

    behind = [*backbone.layers[1:], backbone.model.norm]
    hooks = [
        module.register_forward_pre_hook(partial(look, t), with_kwargs=True)
        for t, module in enumerate(behind)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def barriers(seen):
    """By block, the distances of every token's scores to the three ends of the bands."""
    ends = torch.tensor([1.5, 1.0, -3.0], dtype=torch.float64)
    return [torch.cat(parts)[:, [0, 1, 1]] * torch.tensor([1, 1, -1]) - ends for parts in seen]


def told(backbone, pair, policy, **how):
    with scores(backbone, pair) as seen:
        said = generate(backbone, PROMPTS, policy, **NEW, **how)
    if how.get("cache", True):  # every token has passed, but for the last of each answer
        passed = sum(len(p.split()) + len(answer) - 1 for p, answer in zip(PROMPTS, said.tokens, strict=True))
        assert sum(map(len, seen[0])) == passed
    return said.tokens, barriers(seen)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_both_hold_on_every_token(decay, backbone, pair, tmp_path):
    about = {"layers": LAYERS, "tokens": "all", "decay": decay}
    policy = half_spaces(pair, BANDS, **about)
    save_policy(tmp_path / "policy", policy)
    policy = load_policy(tmp_path / "policy")
    assert policy.direction.shape[1] == 3  # an end each
    answers, first = told(backbone, pair, policy)
    again, _ = told(backbone, pair, policy, cache=False)
    assert again == answers
    together = generate(backbone, PROMPTS, policy, max_new_tokens=NEW["max_new_tokens"])
    assert together.tokens == answers
    if decay == 1:
        assert min(float(h.min()) for h in first) > -ROUNDING
    else:  # what is outside behind a block is at most half as far outside behind the next
        assert (first[1] >= 0.5 * first[0] - ROUNDING).all()
    free, outside = told(backbone, pair, None)
    assert answers != free
    assert all((h[:, :2].amin(0) < 0).all() for h in outside)  # without control each is left
    for i in range(2):  # one alone does not hold the other
        alone = half_spaces(pair[i : i + 1], BANDS[i : i + 1], **about)
        _, left = told(backbone, pair, alone)
        assert min(float(h[:, 1 - i].min()) for h in left) < -0.1


def test_bands_that_cannot_both_hold_are_refused(backbone, pair):
    """Of three contrasts, the third the first with its labels changed over."""
    first, second = pair
    turned = contrast(backbone, first.texts, (~first.target).tolist())
    bands = [(2.0, None), (1.0, None), (0.5, None)]
    with pytest.raises(ValueError, match="half-spaces at layer 0 have no point in common"):
        half_spaces([first, second, turned], bands, layers=LAYERS)
    bands[2] = (-2.0, None)
    assert half_spaces([first, second, turned], bands, layers=LAYERS).bound.shape == (2, 3)
