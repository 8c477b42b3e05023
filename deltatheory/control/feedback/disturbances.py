"""What pushes a tuned model off course: changed tokens, typos, universal triggers, activation noise."""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from deltatheory._numbers import check_number
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.problems import ClassificationProblem, Split
from deltatheory.tasks import Examples

__all__ = [
    "DISTURBANCES",
    "ActivationNoise",
    "Disturbance",
    "Substitutions",
    "Trigger",
    "Typos",
    "disturbed_batches",
    "find_trigger",
    "make_disturbance",
    "prepended",
    "writable_tokens",
]


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """A change of the texts, of their tokens, or of the activations; this one changes nothing.

    The same seed disturbs the same texts, batches in the same order and activations of the same shapes alike.

    Attributes:
        seed: of all that is drawn.
    """

    name: ClassVar[str] = "clean"
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("seed", self.seed, whole=True, least=0)

    def texts(self, examples: Examples) -> Examples:
        """Return the examples with their texts (and pairs) disturbed."""
        return examples

    def tokens(self, batch: Batch, backbone: Backbone, index: int) -> Batch:
        """Return the batch, the `index`-th of its evaluation, with its tokens disturbed."""
        return batch

    def acting(self, layers: nn.ModuleList) -> AbstractContextManager[None]:
        """Disturb the activations behind every block while the context is open."""
        return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Typos(Disturbance):
    """In a share of the words of two letters and more one letter is left out, doubled, swapped or replaced.

    Attributes:
        rate: the share, in [0, 1].
    """

    name: ClassVar[str] = "typos"
    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rate", self.rate, least=0, most=1)

    def texts(self, examples: Examples) -> Examples:
        """Return the examples misspelt."""
        rng = np.random.default_rng(self.seed)
        texts = tuple(self._misspelt(text, rng) for text in examples.texts)
        pairs = examples.pairs and tuple(self._misspelt(text, rng) for text in examples.pairs)
        return replace(examples, texts=texts, pairs=pairs)

    def _misspelt(self, text: str, rng: np.random.Generator) -> str:
        words = text.split(" ")
        for i, word in enumerate(words):
            if len(word) > 1 and word.isalpha() and rng.random() < self.rate:
                at, kind = int(rng.integers(len(word) - 1)), int(rng.integers(4))
                letter = string.ascii_lowercase[rng.integers(26)]
                middle = ("", 2 * word[at], word[at + 1] + word[at], letter)[kind]
                words[i] = word[:at] + middle + word[at + 1 + (kind == 2) :]
        return " ".join(words)


@dataclass(frozen=True, kw_only=True)
class Substitutions(Disturbance):
    """A share of the tokens, special ones excepted, is replaced by tokens drawn from the vocabulary.

    Attributes:
        rate: the share, in [0, 1].
    """

    name: ClassVar[str] = "substitutions"
    rate: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rate", self.rate, least=0, most=1)

    def tokens(self, batch: Batch, backbone: Backbone, index: int) -> Batch:
        """Return the batch with tokens replaced."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + index)
        ids = batch.input_ids.cpu()
        special = torch.isin(ids, torch.tensor(sorted(_special(backbone))))
        hit = (torch.rand(ids.shape, generator=generator) < self.rate) & batch.mask.bool().cpu() & ~special
        words = writable_tokens(backbone)
        drawn = words[torch.randint(len(words), ids.shape, generator=generator)]
        return replace(batch, input_ids=torch.where(hit, drawn, ids).to(batch.input_ids.device))


@dataclass(frozen=True, kw_only=True)
class Trigger(Disturbance):
    """A universal trigger (Wallace et al. 2019): the same tokens before every text; see `find_trigger`.

    Attributes:
        trigger: the tokens.
    """

    name: ClassVar[str] = "trigger"
    trigger: tuple[int, ...] = ()

    def tokens(self, batch: Batch, backbone: Backbone, index: int) -> Batch:
        """Return the batch behind the trigger."""
        return prepended(batch, backbone, self.trigger)


@dataclass(frozen=True, kw_only=True)
class ActivationNoise(Disturbance):
    """Gaussian noise is added to every entry of the state behind every block.

    Attributes:
        scale: its standard deviation over the root mean square of that state; at least 0.
    """

    name: ClassVar[str] = "noise"
    scale: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("scale", self.scale, least=0)

    @contextmanager
    def acting(self, layers: nn.ModuleList) -> Iterator[None]:
        """Add noise, drawn from the seed anew each time the context is opened."""
        device = next(layers.parameters()).device
        generator = torch.Generator(device).manual_seed(self.seed)

        def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + self.scale * x.pow(2).mean().sqrt() * noise
            return (x, *output[1:]) if isinstance(output, tuple) else x

        handles = [layer.register_forward_hook(hook) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


DISTURBANCES: dict[str, type[Disturbance]] = {
    kind.name: kind for kind in (Substitutions, Typos, Trigger, ActivationNoise)
}


def make_disturbance(
    name: str, problem: ClassificationProblem, delta: Float[Tensor, " m"], *, seed: int = 0, **options: Any
) -> Disturbance:
    """Return a disturbance by name; a trigger is searched for against the tuned model.

    Args:
        name: a key of `DISTURBANCES`.
        problem: what is disturbed.
        delta: δ of the model that the trigger is to deceive.
        seed: of all that is drawn.
        options: the kind's settings; of a trigger those of `find_trigger`.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in DISTURBANCES:
        raise ValueError(f"disturbance={name!r}: allowed are {', '.join(DISTURBANCES)}.")
    if name == Trigger.name and "trigger" not in options:
        options = {"trigger": find_trigger(problem, delta, seed=seed, **options)}
    return DISTURBANCES[name](seed=seed, **options)


def disturbed_batches(
    problem: ClassificationProblem, split: Split, disturbance: Disturbance, batch_size: int
) -> list[tuple[Batch, Int[Tensor, " B"]]]:
    """Return a split in batches, the same for the same seed, with texts and tokens disturbed.

    The order is drawn, not that of the lengths: each batch is a sample of the split, as a stream of requests
    is.

    Args:
        problem: whose.
        split: clean.
        disturbance: what it does to activations is left to `acting`.
        batch_size: texts in a batch; the last one may have fewer.
    """
    order = np.random.default_rng(0).permutation(len(split)).tolist()
    changed = replace(split, examples=disturbance.texts(split.examples))
    batches = []
    for index, start in enumerate(range(0, len(order), batch_size)):
        batch, labels = problem.batch(changed, order[start : start + batch_size])
        batches.append((disturbance.tokens(batch, problem.backbone, index), labels))
    return batches


def writable_tokens(backbone: Backbone) -> Int[Tensor, " n"]:
    """Return the tokens that some text is made of: each is what its own word is encoded as."""
    words = [backbone.tokenizer.decode([i]) for i in range(len(backbone.tokenizer))]
    encoded = backbone.tokenizer(words, add_special_tokens=False)["input_ids"]
    special = _special(backbone)
    return torch.tensor([i for i, row in enumerate(encoded) if row == [i] and i not in special])


def _special(backbone: Backbone) -> set[int]:
    """Return the tokens that are not of a text: those the tokenizer adds, and those it calls special."""
    return {*backbone.tokenizer("", "")["input_ids"], *backbone.tokenizer.all_special_ids}


def _leading(backbone: Backbone) -> int:
    """Return how many tokens the tokenizer puts before a text."""
    special = _special(backbone)
    return next(i for i, token in enumerate(backbone.tokenizer("a")["input_ids"]) if token not in special)


def prepended(batch: Batch, backbone: Backbone, tokens: tuple[int, ...] | Int[Tensor, " k"]) -> Batch:
    """Return the batch with the same tokens before every text, behind what the tokenizer puts there.

    Args:
        batch: n texts.
        backbone: whose.
        tokens: k of them.

    Raises:
        ValueError: if a text becomes longer than the backbone takes.
    """
    ids, count = batch.input_ids, len(tokens)
    if ids.shape[1] + count > backbone.max_length:
        raise ValueError(
            f"tokens: {count} before {ids.shape[1]}; {backbone.name!r} takes {backbone.max_length} in all. "
            "Cut the texts shorter."
        )
    first = _leading(backbone)
    longer = backbone.prompted(batch, count)
    new = torch.as_tensor(tokens, device=ids.device).expand(len(ids), -1)
    return replace(longer, input_ids=torch.cat([ids[:, :first], new, ids[:, first:]], 1))


def find_trigger(
    problem: ClassificationProblem,
    delta: Float[Tensor, " m"],
    *,
    length: int = 3,
    rounds: int = 1,
    candidates: int = 10,
    examples: int = 32,
    seed: int = 0,
) -> tuple[int, ...]:
    """Search tokens that, put before any text, raise the loss most (HotFlip: Ebrahimi et al. 2018).

    One place after the other: the loss is linearized in the place's word embedding, e ↦ ∇·(e - e_now), the
    tokens with the largest values are tried, and the best stays if the loss rises (Wallace et al. 2019, eq.
    2, untargeted).

    Args:
        problem: what is attacked, on its training examples.
        delta: δ of the tuned model.
        length: tokens of the trigger.
        rounds: times every place is visited.
        candidates: tokens tried at a place.
        examples: training examples that the loss is taken over.
        seed: of the examples and the first trigger.

    Raises:
        ValueError: for a count below 1, or a delta with a prompt.
    """
    if problem.delta.edit(delta).prompt is not None:  # its pass embeds words where no edit reaches them
        raise ValueError(
            f"disturbance='trigger': none can be searched for where the delta is {problem.delta.name!r}, "
            "which has a prompt; name the other disturbances."
        )
    counts = {"length": length, "rounds": rounds, "candidates": candidates, "examples": examples}
    for name, value in counts.items():
        check_number(name, value, whole=True, least=1)
    backbone, rng = problem.backbone, np.random.default_rng(seed)
    chosen = rng.permutation(len(problem.train))[:examples].tolist()
    batch, labels = problem.batch(problem.train, chosen)
    allowed = writable_tokens(backbone).to(backbone.device)
    name, words = backbone.words, cast(Any, backbone.model).get_input_embeddings()
    table = words.weight[allowed]
    first = _leading(backbone)

    def loss(trigger: Tensor, offset: Tensor | None = None) -> Tensor:
        edit = problem.delta.edit(delta)
        if offset is not None:
            edit = Edit(outputs={name: lambda _, y: y + _at(offset, first, y)}).then(edit)
        attacked = prepended(batch, backbone, trigger)
        logits = problem.read(backbone.hidden_states(attacked, edit), attacked, edit)
        return problem.loss_function.mean(logits, labels)

    trigger = allowed[torch.from_numpy(rng.integers(len(allowed), size=length)).to(allowed.device)]
    with torch.no_grad():
        worst = float(loss(trigger))
    for _ in range(rounds):
        for i in range(length):
            offset = torch.zeros(length, table.shape[1], dtype=table.dtype, device=table.device)
            gradient = torch.autograd.grad(loss(trigger, offset.requires_grad_()), offset)[0][i]
            for token in allowed[(table @ gradient).topk(min(candidates, len(allowed))).indices]:
                trial = trigger.clone()
                trial[i] = token
                with torch.no_grad():
                    value = float(loss(trial))
                if value > worst:
                    worst, trigger = value, trial
            problem.count(len(batch), forward=1.0 + candidates, backward=0.5)
    return tuple(trigger.tolist())


def _at(offset: Float[Tensor, "k H"], first: int, like: Float[Tensor, "B T H"]) -> Float[Tensor, "T H"]:
    """Return the offsets at the trigger's places and zeros elsewhere."""
    behind = like.shape[1] - first - len(offset)
    return torch.nn.functional.pad(offset, (0, 0, first, behind))
