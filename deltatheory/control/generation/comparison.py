"""`steer_generation`: how often does a policy bring generated text on target, at what perplexity and time?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory.backbones import Backbone
from deltatheory.control.generation.contrast import Contrast, check_generates, contrast
from deltatheory.control.generation.files import save_policy
from deltatheory.control.generation.generate import generate, perplexity, prompt_tokens
from deltatheory.control.generation.judge import Judge
from deltatheory.control.generation.making import (
    STATE_POLICIES,
    check_state_policies,
    make_state_policy,
)
from deltatheory.control.generation.policies import GenerationPolicy, Tokens, check_tokens
from deltatheory.control.generation.tuned import TunedDelta
from deltatheory.deltas import Delta
from deltatheory.results import Result, provenance
from deltatheory.tasks import Examples, Task

__all__ = [
    "BASELINES",
    "MORE",
    "TUNED",
    "VARIED",
    "GeneratedRow",
    "GenerationProtocol",
    "GenerationSteering",
    "SteeringTask",
    "check_asked",
    "check_generation",
    "steer_generation",
]

MORE, VARIED = 1.5, 0.8  # of the perplexity, and of the different pairs of words, without control
NONE, INSTRUCTION = "none", "instruction"
BASELINES = (NONE, INSTRUCTION)  # they stand beside every policy
TUNED = "tuned"  # a policy beside those of `STATE_POLICIES`: a trained delta that is given
_FEWEST = 4  # texts that the judge is trained on


@dataclass(frozen=True)
class GenerationProtocol:
    """How policies are compared while a model generates.

    Attributes:
        contrast_texts: first training texts that the contrast is read from, at most half of them; the judge
            is trained on the others.
        prompts: test texts that are not of the target, whose first words are gone on with.
        words: of a test text that are a prompt.
        max_new_tokens: of a continuation.
        batch_size: prompts that run at once.
        layers: numbers of the blocks where policies act; `Contrast.default_layers` if `None`.
        tokens: which tokens they move.
        instruction: what the habit says before a prompt instead of any policy; by default what the text is.
        seed: of draws.
    """

    contrast_texts: int = 200
    prompts: int = 32
    words: int = 8
    max_new_tokens: int = 24
    batch_size: int = 16
    layers: tuple[int, ...] | None = None
    tokens: Tokens = "last"
    instruction: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"contrast_texts": 16, "prompts": 1, "words": 1, "max_new_tokens": 1, "batch_size": 1}
        for name, low in {**least, "seed": 0}.items():
            check_number(name, getattr(self, name), whole=True, least=low)
        check_tokens(self.tokens)


def check_asked(
    policies: Sequence[str], strengths: Sequence[int | float], tuned: object | None = None
) -> None:
    """Refuse unknown policies, a trained delta without its policy or the reverse, and what is no strength.

    Raises:
        ValueError: with what is allowed.
    """
    check_state_policies([name for name in policies if name != TUNED])
    if (TUNED in policies) != (tuned is not None):
        raise ValueError(f"policy={TUNED!r}, tuned={tuned}: are a trained delta; give both, or neither.")
    if not strengths:
        raise ValueError("strengths: there are none; give one at least.")
    for strength in strengths:
        check_number("strength", strength)


def check_generation(
    task: Task,
    policies: Sequence[str],
    strengths: Sequence[int | float],
    target: str | None,
    tuned: object | None = None,
) -> str:
    """Return the label that is the target, and refuse what cannot be run before anything is loaded.

    Raises:
        ValueError: as `check_asked`; for a task of pairs or without labels, or a target that is none of them.
    """
    check_asked(policies, strengths, tuned)
    if task.kind != "classification" or task.train.pairs is not None:
        raise ValueError(f"task={task.name!r}: a contrast needs single texts with labels.")
    if target is not None and target not in task.label_names:
        raise ValueError(f"target={target!r}: allowed are {', '.join(task.label_names)}.")
    return task.label_names[-1] if target is None else target


@dataclass(frozen=True)
class GeneratedRow:
    """What a model went on with under one policy.

    Attributes:
        policy: its name.
        strength: in gaps; `None` of a baseline.
        share: of the continuations that the judge finds on target.
        perplexity: of the continuations under the frozen model, behind the prompts alone.
        distinct: share of their pairs of neighbouring words that are unlike all others of the same text: a
            text that goes round in circles has low perplexity.
        seconds: of processor time a token.
        energy: |u|² of a token, summed over the layers.
        texts: the first continuations.
    """

    policy: str
    strength: float | None
    share: float
    perplexity: float
    distinct: float
    seconds: float
    energy: float
    texts: list[str]


def _distinct(texts: Sequence[str]) -> float:
    pairs = kinds = 0
    for text in texts:
        words = text.split()
        both = list(pairwise(words))
        pairs, kinds = pairs + len(both), kinds + len(set(both))
    return kinds / pairs if pairs else 1.0


class SteeringTask:
    """A contrast, a judge that was trained on other texts, and prompts.

    Args:
        backbone: causal or an encoder-decoder, frozen.
        task: classification of single texts.
        target: one of its labels.
        protocol: how policies are compared.

    Raises:
        ValueError: for too few texts, or prompts that with their continuations are too long.
    """

    found: Contrast
    judge: Judge

    def __init__(
        self, backbone: Backbone, task: Task, target: str, protocol: GenerationProtocol | None = None
    ) -> None:
        check_generates(backbone)
        self.backbone, self.protocol = backbone, protocol or GenerationProtocol()
        given, place = self.protocol, task.label_names.index(target)

        def marked(examples: Examples) -> list[bool]:
            return [label == place for label in examples.labels or ()]

        test = marked(task.test)
        others = [t for t, on in zip(task.test.texts, test, strict=True) if not on]
        openings = [" ".join(text.split()[: given.words]) for text in others[: given.prompts]]
        self.prompts = openings
        said = given.instruction
        self.instruction = f"This text is {target}:" if said is None else said
        self.rows = prompt_tokens(backbone, openings, given.max_new_tokens)
        count = min(given.contrast_texts, len(task.train) * 4 // 5)
        labels, texts = marked(task.train), list(task.train.texts)
        self.judge = Judge([*texts[count:], *task.dev.texts], [*labels[count:], *marked(task.dev)])
        self.judge_texts = len(texts) - count + len(task.dev)
        self.judge_accuracy = self.judge.accuracy(task.test.texts, test)
        self.found = contrast(backbone, texts[:count], labels[:count], seed=given.seed)
        self.layers = self.found.default_layers(given.tokens) if given.layers is None else given.layers

    def policy(self, name: str, strength: int | float) -> GenerationPolicy:
        """Return a policy by name, as `make_state_policy`."""
        about = {"layers": self.layers, "tokens": self.protocol.tokens, "seed": self.protocol.seed}
        return make_state_policy(name, self.backbone, self.found, strength, **about)

    def run(
        self, name: str, policy: GenerationPolicy | None = None, strength: float | None = None
    ) -> GeneratedRow:
        """Return what a policy, or a baseline, comes to.

        Args:
            name: of the policy, or of `BASELINES`.
            policy: that acts.
            strength: of the policy.
        """
        given = self.protocol
        prompts = self.prompts
        if name == INSTRUCTION:
            prompts = [f"{self.instruction} {prompt}" for prompt in prompts]
        began = time.process_time()
        told = generate(
            self.backbone,
            prompts,
            policy,
            max_new_tokens=given.max_new_tokens,
            batch_size=given.batch_size,
        )
        seconds = (time.process_time() - began) / sum(map(len, told.tokens))
        on_target = self.judge.on_target(told.texts)
        return GeneratedRow(
            name,
            strength,
            sum(on_target) / len(on_target),
            perplexity(self.backbone, self.rows, told.tokens, given.batch_size),
            _distinct(told.texts),
            seconds,
            told.energy,
            told.texts[:5],
        )


@dataclass(frozen=True, eq=False)
class GenerationSteering(Result):
    """What policies make of generated text.

    Attributes:
        target: label that texts should have.
        rows: one a policy and strength, baselines first.
        layers: numbers of the blocks where they act.
        accuracy: of each of these blocks' probes on held-out texts.
        held_out: how many those are.
        judge: its accuracy on the test texts, and how many it was trained on.
        prompts: how many were gone on with.
        settings: of the run.
        seconds: time taken.
        provenance: model, task, versions, commit.
        policies: file name ↦ policy.
    """

    BESIDE: ClassVar[tuple[str, ...]] = ("policies",)

    target: str
    rows: list[GeneratedRow]
    layers: list[int]
    accuracy: list[float]
    held_out: int
    judge: dict[str, float]
    prompts: int
    settings: dict[str, Any]
    seconds: float
    provenance: dict[str, Any]
    policies: Mapping[str, GenerationPolicy] = field(repr=False)

    def row(self, policy: str, strength: float | None = None) -> GeneratedRow:
        """Return the row of a policy and strength, or of a baseline."""
        found = [r for r in self.rows if (r.policy, r.strength) == (policy, strength)]
        if not found:
            raise ValueError(f"policy={policy!r}, strength={strength}: there is no such row.")
        return found[0]

    def added(self, row: GeneratedRow) -> float:
        """Return what a row's tokens take beyond those of no control, as a share."""
        return row.seconds / self.row(NONE).seconds - 1

    def best(self) -> GeneratedRow:
        """Return the row with the largest share among those whose text stays near that without control.

        Near is at most `MORE` times its perplexity and, since a text that goes round in circles is likely, at
        least `VARIED` of its share of different pairs of words.
        """
        free = self.row(NONE)
        near = [
            r
            for r in self.rows
            if r.perplexity <= MORE * free.perplexity and r.distinct >= VARIED * free.distinct
        ]
        return max(near, key=lambda r: r.share)

    def save_beside(self, folder: Path) -> None:
        """Write each policy as plain tensors with their layout."""
        for name, policy in self.policies.items():
            save_policy(folder / f"{name}.safetensors", policy)


def steer_generation(
    backbone: Backbone,
    task: Task,
    policies: Sequence[str] | None = None,
    strengths: Sequence[int | float] = (2.0, 4.0, 8.0),
    *,
    target: str | None = None,
    tuned: tuple[Delta, Tensor] | None = None,
    protocol: GenerationProtocol | None = None,
    on_row: Callable[[GeneratedRow], None] | None = None,
) -> GenerationSteering:
    """Let policies act while a model goes on with prompts: how often it comes on target, and at what cost.

    No control and the habit, an instruction before the prompt, stand beside them.

    Args:
        backbone: causal or an encoder-decoder, frozen.
        task: classification; its texts make the contrast, the judge and the prompts.
        policies: keys of `STATE_POLICIES`, and `TUNED`; all by default.
        strengths: of each, in gaps.
        target: the label that texts should have; the last by default.
        tuned: a trained delta of the backbone and its δ, which is a policy at s δ.
        protocol: how they are compared.
        on_row: called with each row.

    Raises:
        ValueError: as `check_generation`; for a backbone that does not generate, too few texts, probes that
            do not separate, or prompts that leave no room.
        ImportError: without `scikit-learn`.
    """
    began = time.perf_counter()
    names = [*STATE_POLICIES, *([TUNED] if tuned else [])] if policies is None else list(policies)
    target = check_generation(task, names, strengths, target, tuned)
    bench = SteeringTask(backbone, task, target, protocol)

    def made(name: str, strength: int | float) -> GenerationPolicy:
        return TunedDelta(*tuned, strength) if tuned and name == TUNED else bench.policy(name, strength)

    chosen = {
        f"{name}-{strength:g}": (name, float(strength), made(name, strength))
        for name in names
        for strength in strengths
    }
    rows: list[GeneratedRow] = []
    for name, strength, policy in [*((one, None, None) for one in BASELINES), *chosen.values()]:
        rows.append(bench.run(name, policy, strength))
        if on_row:
            on_row(rows[-1])
    return GenerationSteering(
        target,
        rows,
        list(bench.layers),
        [bench.found.accuracy[t] for t in bench.layers],
        bench.found.held_out,
        {"accuracy": bench.judge_accuracy, "texts": bench.judge_texts},
        len(bench.prompts),
        asdict(replace(bench.protocol, layers=bench.layers, instruction=bench.instruction)),
        time.perf_counter() - began,
        {
            **provenance(),
            "model": backbone.provenance,
            "task": {"name": task.name, **task.provenance},
        },
        {name: policy for name, (_, _, policy) in chosen.items()},
    )
