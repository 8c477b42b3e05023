"""Tiny random transformers with a delta, as problems: for property tests of code and of bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deltatheory.backbones import Backbone, wrap_model
from deltatheory.problems import ClassificationProblem, Setup
from deltatheory.tasks import Examples, Task

__all__ = ["tiny_backbone", "tiny_problem", "tiny_problems"]

_LETTERS = "abcdefghijklmnop"
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_LETTERS]


def tiny_backbone(family: str = "bert", *, seed: int = 0) -> Backbone:
    """Return a random network of two blocks of width 16, in double precision.

    Its weights are large enough for attention to be far from uniform.

    Args:
        family: "bert" (sees both sides) or "gpt2" (causal).
        seed: of the weights.

    Raises:
        ValueError: for another family.
        ImportError: without transformers.
    """
    if family not in ("bert", "gpt2"):
        raise ValueError(f"family={family!r}: must be 'bert' or 'gpt2'.")
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=len(_WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    auto = transformers.AutoModel if family == "bert" else transformers.AutoModelForCausalLM
    # From the seed alone, and without a trace in the caller's random numbers.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = auto.from_config(config)
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(_WORDS)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    names = {"unk_token": "[UNK]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **names)
    return wrap_model(model, tokenizer, name=f"tiny-{family}", attention="eager").to(dtype=torch.float64)


def _letters(seed: int) -> Task:
    """Return a task of two classes: letters of the first, or of the second half of the alphabet."""
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int) -> Examples:
        labels = tuple(i % 2 for i in range(count))
        picks = torch.randint(8, (count, 5), generator=generator).tolist()
        texts = (" ".join(_LETTERS[8 * c + i] for i in row) for c, row in zip(labels, picks, strict=True))
        return Examples(tuple(texts), labels=labels)

    splits = examples(24), examples(4), examples(12)
    return Task("letters", "classification", ("early", "late"), *splits, {}, label_words=("a", "i"))


def tiny_problem(
    family: str = "bert", delta: str = "lora", *, seed: int = 0, options: dict[str, Any] | None = None
) -> ClassificationProblem:
    """Return a problem on a tiny random network, in double precision.

    Args:
        family: as in `tiny_backbone`.
        delta: a key of `deltatheory.deltas.DELTAS`.
        seed: of the weights, the texts, and what the delta draws.
        options: of the delta.

    Raises:
        ValueError: as `tiny_backbone`, and for an unknown delta.
    """
    setup = Setup(tiny_backbone(family, seed=seed), _letters(seed), seed=seed)
    return setup.classification(delta, options, check=False)


def tiny_problems(
    families: Sequence[str] = ("bert", "gpt2"), deltas: Sequence[str] = ("prompt", "prefix", "bitfit")
) -> Any:
    """Return a hypothesis strategy of tiny problems.

    Args:
        families: to draw from.
        deltas: to draw from; those whose defaults fit a width of 16.

    Raises:
        ImportError: without hypothesis.
    """
    from hypothesis import strategies as st

    return st.builds(
        tiny_problem,
        family=st.sampled_from(list(families)),
        delta=st.sampled_from(list(deltas)),
        seed=st.integers(0, 2**16),
    )
