"""What a trained adapter really uses: ranks, movement, and the smallest ranks that keep its effect."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from deltatheory.adapters.adapter import Factors, PeftAdapter, TrainedAdapter, open_adapter
from deltatheory.adapters.exported import to_peft
from deltatheory.adapters.module_use import ModuleUse, movement_of, ratio, use_of
from deltatheory.adapters.native import native
from deltatheory.adapters.truncation import (
    ZERO,
    bases_of,
    effect_kept,
    moments_of,
    smallest,
    truncate,
)
from deltatheory.deltas import Delta
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import PromptTuning
from deltatheory.deltas.selected import LayerNormOnly
from deltatheory.problems import FORWARD, Setup
from deltatheory.results import Result, provenance
from deltatheory.tasks import Task

__all__ = ["Explanation", "ModuleUse", "check_limits", "explain"]


@dataclass(frozen=True)
class Explanation(Result):
    """What an adapter uses, and what a smaller one would keep.

    With F, A and T the logits of the frozen model, the adapter and the truncated adapter on some examples,
    the effect that T keeps is 1 − ‖T − A‖² / ‖A − F‖².

    Attributes:
        modules: one entry a module, in the model's order.
        movement: ‖ΔW‖ / ‖W₀‖ over all changed modules together.
        total_rank: Σ r; this, the next three and the effects are `None` or empty where ranks do not apply.
        used_rank: Σ used, by the spectrum.
        kept_rank: total rank of the truncated adapter.
        rank_pattern: module ↦ rank of the truncated adapter, as `peft` takes it; modules of rank 0 are out.
        curve: (total rank, effect on the dev split) of every truncation that was measured, by rank.
        effect_kept: by the truncated adapter on the test split; `None` without a task.
        frozen: test accuracy of the frozen model.
        full: test accuracy with the adapter.
        truncated: test accuracy with the truncated adapter.
        findings: sentences.
        passes: forward-equivalents.
        seconds: time taken.
        provenance: adapter, model, task, versions, commit.
        adapter: the truncated adapter and its δ; `None` where there is none.
    """

    FILE: ClassVar[str] = "explanation.json"
    BESIDE: ClassVar[tuple[str, ...]] = ("adapter",)

    modules: list[ModuleUse]
    movement: float | None
    total_rank: int | None
    used_rank: int | None
    kept_rank: int | None
    rank_pattern: dict[str, int]
    curve: list[tuple[int, float]]
    effect_kept: float | None
    frozen: float | None
    full: float | None
    truncated: float | None
    findings: list[str]
    passes: float
    seconds: float
    provenance: dict[str, Any]
    adapter: tuple[LoRA, Tensor] | None = field(default=None, repr=False, compare=False)

    def save_beside(self, folder: Path) -> None:
        """Write the truncated adapter, where there is one, as PEFT's `truncated/`; else an older one goes."""
        if self.adapter is not None:
            to_peft(*self.adapter, folder / "truncated")
        elif (folder / self.FILE).exists():
            rmtree(folder / "truncated", ignore_errors=True)


def explain(
    adapter: str | os.PathLike[str] | tuple[Any, Any] | TrainedAdapter,
    setup: Setup | Mapping[str, Any] | None = None,
    *,
    keep: float = 0.99,
    examples: int = 256,
    on_truncation: Callable[[int, float], None] | None = None,
) -> Explanation:
    """Say what a trained adapter uses, and find the smallest ranks that keep its effect.

    LoRA: singular values of ΔW = (α/r) B A come from its factors: B = Q_B R_B, Aᵀ = Q_A R_A, and ΔW has those
    of the r × r matrix (α/r) R_B R_Aᵀ. With a task, module l is truncated where it matters least for its own
    output: with C the second moment of its inputs on training examples, E‖ΔW x‖² = ‖ΔW C^{1/2}‖_F², so
    ΔW_k = U_k U_kᵀ ΔW with U_k the k leading left singular vectors of ΔW C^{1/2} is the best of rank k
    (Eckart & Young 1936; as in SVD-LLM, Wang et al. 2024). One threshold on the singular values of all
    ΔW_l C_l^{1/2} orders all truncations by total rank, and bisection finds one that keeps `keep` of the
    effect on the dev split while the next smaller one does not. The test split then verifies it. Without a
    task the ranks are those that each spectrum of ΔW uses, and nothing is verified.

    For other adapters that change parameters: movement only. Of a prefix with a task: what is kept of the
    effect where it is left out of one block.

    Args:
        adapter: what `open_adapter` takes, or what it returned.
        setup: the classification task to verify on, with the head and the suffix of the training: a setup,
            or its arguments, where the model is by default what the adapter names; `None` for no task.
        keep: share of the effect and of each spectrum, in (0, 1].
        examples: of each split, at most.
        on_truncation: called with the total rank of each truncation that is tried, and the share of
            the effect that it keeps.

    Raises:
        ImportError: without `peft`, for its format.
        FileNotFoundError: for a file that is not there.
        ValueError: for keep or examples out of range, an adapter that changes nothing, and as
            `open_adapter` and `Setup`.
    """
    check_limits(keep, examples)
    began = time.perf_counter()
    asked = Setup.of(setup)
    if isinstance(adapter, TrainedAdapter):
        held, path = adapter, None
    else:
        named = setup.get("model") if isinstance(setup, Mapping) else setup and setup.model
        named = asked.backbone if isinstance(named, Mapping) else named
        held, path = open_adapter(adapter, named), None if isinstance(adapter, tuple) else str(adapter)
    held.backbone.check_on_one_device("explain")
    about = {"path": path, "specification": held.delta.specification()}
    asked = asked.replace(model=held.backbone)
    if isinstance(held, PeftAdapter) and held.delta.model.active_peft_config.is_prompt_learning:
        held = native(held)
    factors = held.factors()
    findings = _left_out(held, bool(held.head) or asked.settings()["head"] == "own")
    passes = 0.0
    if factors is None:
        modules = movement_of(held)
        there = "the movement of its parameters is all there is" if modules else "it moves no parameter"
        findings.append(
            f"Ranks: they do not apply to {held.kind}, whose changes are not kept as two factors; {there}."
        )
    else:
        held = _as_lora(held, factors)
        passes += 2 * FORWARD
        modules = [use_of(held.backbone, name, a, b, keep) for name, (a, b) in factors.items()]
        findings += _waste(modules)

    trial = None if setup is None else _Trial(held, asked, examples)
    curve: list[tuple[int, float]] = []
    pattern: dict[str, int] = {}
    truncated: tuple[LoRA, Tensor] | None = None
    if factors is not None:
        if trial is None:
            bases, pattern = bases_of(factors), {m.name: m.used for m in modules if m.used}
            findings.append(
                f"Unverified: without a task the ranks are those that hold {keep:.1%} of each spectrum; what "
                "they keep of the effect is not known."
            )
        else:
            bases = bases_of(factors, moments_of(trial.problem, held, factors))
            pattern, curve = smallest(trial.problem, held, factors, bases, keep, on_truncation)
        if pattern:
            truncated = truncate(held.backbone, factors, bases, pattern)
        modules = [replace(m, kept=pattern.get(m.name, 0)) for m in modules]
    if trial is not None:
        if truncated is not None:
            trial.see("truncated", TrainedAdapter(*truncated))
        findings += _blocks(trial, held)
        passes += trial.passes
        findings += _verdict(trial, curve, keep, factors is not None)
    ranked = factors is not None
    given = asked.settings()
    return Explanation(
        modules=modules,
        movement=ratio(math.hypot(*(m.change for m in modules)), math.hypot(*(m.weight for m in modules))),
        total_rank=sum(m.rank or 0 for m in modules) if ranked else None,
        used_rank=sum(m.used or 0 for m in modules) if ranked else None,
        kept_rank=sum(pattern.values()) if ranked else None,
        rank_pattern=pattern,
        curve=curve,
        effect_kept=trial and trial.effect(),
        frozen=trial and trial.accuracy("frozen"),
        full=trial and trial.accuracy("full"),
        truncated=trial and trial.accuracy("truncated"),
        findings=findings,
        passes=passes,
        seconds=time.perf_counter() - began,
        provenance={
            **provenance(),
            "adapter": about,
            "model": held.backbone.provenance,
            "task": trial and {"name": asked.task.name, **asked.task.provenance},
            "seed": asked.seed,
            "settings": {
                "keep": keep,
                "head": given["head"],
                "suffix": given["suffix"],
                "examples": examples,
                "max_length": asked.max_length,
            },
        },
        adapter=truncated,
    )


def check_limits(keep: float, examples: int) -> None:
    """Refuse what `explain` cannot keep, before anything is loaded.

    Raises:
        ValueError: for a share outside (0, 1], or no examples.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: must lie in (0, 1].")
    if examples < 1:
        raise ValueError(f"examples={examples}: must be at least 1.")


class _Trial:
    """An adapter on a task: logits of the test split by what they are of ("frozen", "full", "truncated").

    Args:
        held: the adapter.
        setup: the task, on its base model.
        examples: of each split, at most.
    """

    def __init__(self, held: TrainedAdapter, setup: Setup, examples: int) -> None:
        self._logits: dict[str, Tensor] = {}
        with held.switched_off():
            head = setup.head
            if held.head:
                head.check(*held.head)
                head = head.trained(held.head[1])
            small = setup.replace(task=_limited(setup.task, examples, setup.seed), head=head)
            self.problem = small.classification(held.delta, check=False)
            start: Delta = held.delta
            if (
                isinstance(start, PrefixTuning | PromptTuning) and not start.exact_zero
            ):  # which starts with words
                start = LayerNormOnly(held.backbone)
            self.see("frozen", TrainedAdapter(start, start.initial()))
            self.problem.delta = held.delta
        self.see("full", held)

    @property
    def passes(self) -> float:
        """Passes spent, those of the head included."""
        return self.problem.passes + self.problem.head.passes

    def see(self, name: str, held: TrainedAdapter) -> None:
        """Predict the test split; the problem's delta is then that of the adapter."""
        self._logits[name] = self._predict(held)

    def _predict(self, held: TrainedAdapter) -> Tensor:
        self.problem.delta = held.delta
        logits = self.problem.predict(held.values, self.problem.test)
        self.problem.restore()
        return logits

    def accuracy(self, name: str) -> float | None:
        """Return the accuracy on the test split; `None` for what was not seen."""
        if name not in self._logits:
            return None
        return float((self._logits[name].argmax(1) == self.problem.test.labels).double().mean())

    def effect(self) -> float | None:
        """Return what the truncated adapter keeps of the effect; `None` without one, or without an effect."""
        full, frozen = self._logits["full"], self._logits["frozen"]
        if "truncated" not in self._logits or not self.has_effect():
            return None
        return effect_kept(self._logits["truncated"], full, frozen)

    def effect_of(self, held: TrainedAdapter) -> float:
        """Return what another adapter keeps of an effect that there is."""
        return effect_kept(self._predict(held), self._logits["full"], self._logits["frozen"])

    def has_effect(self) -> bool:
        """Return whether the adapter changes a logit of the test split."""
        return not torch.equal(self._logits["full"], self._logits["frozen"])


@torch.no_grad()
def _as_lora(held: TrainedAdapter, factors: Factors) -> TrainedAdapter:
    """Return the same change as a LoRA of full rank; layers of the adapter's own are out of the model.

    Raises:
        ValueError: if nothing is changed, or the hidden states of a text are not the same.
    """
    backbone, bases = held.backbone, bases_of(factors)
    ranks = {n: len(s) for n, (_, s) in bases.items() if len(s)}
    if not ranks:
        raise ValueError(f"the adapter ({held.kind}) changes nothing: every B A is 0. Was it trained?")
    batch = backbone.encode(["a b c d e"])
    theirs = backbone.hidden_states(batch, held.delta.edit(held.values))
    held.unload()
    lora, values = truncate(backbone, factors, bases, ranks)
    error = float((backbone.hidden_states(batch, lora.edit(values)) - theirs).abs().max())
    if error > torch.finfo(backbone.dtype).eps ** 0.5 * float(theirs.abs().max()):
        raise ValueError(
            f"the adapter ({held.kind}) does more than its factors say: its hidden states are others "
            f"by {error:.2g}."
        )
    truncated = TrainedAdapter(lora, values)
    truncated.head = held.head
    return truncated


def _limited(task: Task, examples: int, seed: int) -> Task:
    """Draw at most so many examples of every split."""
    dev = np.random.default_rng(seed).permutation(len(task.dev))[:examples].tolist()
    smaller = task.limited(min(examples, len(task.train)), min(examples, len(task.test)), seed)
    return replace(smaller, dev=task.dev.subset(dev))


def _left_out(held: TrainedAdapter, brings_head: bool) -> list[str]:
    """Say what of an adapter the truncated one lacks, and whether the task is answered without it."""
    if not held.left_out:
        return []
    another = "" if brings_head else "the task's head here is another, and "
    return [
        f"Left out: {len(held.left_out)} trained tensors lie outside the transformer, such as "
        f"{held.left_out[0]!r}; {another}the truncated adapter has none."
    ]


def _blocks(trial: _Trial, held: TrainedAdapter) -> list[str]:
    """Say what a prefix does in each block: the effect that is kept where it is left out there."""
    prefix = held.delta
    if not isinstance(prefix, PrefixTuning) or len(prefix.blocks) < 2 or not trial.has_effect():
        return []
    pairs, pieces = prefix.keys_values(held.values), prefix.coordinates.split(held.values)
    about: dict[str, Any] = {"length": prefix.length, "gate": prefix.gate, "shift": prefix.shift}
    kept = {}
    for t in prefix.blocks:
        others = [one for one in prefix.blocks if one != t]
        rest = PrefixTuning(prefix.backbone, blocks=others, seed=prefix.seed, **about)
        gates = {one: pieces[f"{one}.gate"] for one in others} if prefix.gate == "zero" else None
        values = rest.delta_of({one: pairs[one] for one in others}, gates)
        kept[t] = trial.effect_of(TrainedAdapter(rest, values))
    trial.problem.delta = prefix
    most, least = min(kept, key=kept.__getitem__), max(kept, key=kept.__getitem__)
    return [
        f"Blocks: without the prefix of block {most} {kept[most]:.0%} of the effect on the logits are kept, "
        f"the least of all {len(kept)}; without that of block {least} {kept[least]:.0%}, the most."
    ]


def _waste(modules: list[ModuleUse]) -> list[str]:
    total, wasted = sum(m.rank or 0 for m in modules), sum(m.wasted or 0 for m in modules)
    idle = [m.name for m in modules if not m.used]
    findings = [f"Waste: {wasted} of the total rank {total} is not used by the spectra of ΔW."]
    if idle:
        findings.append(f"Idle: {len(idle)} of {len(modules)} modules do not change, such as {idle[0]!r}.")
    return findings


def _verdict(trial: _Trial, curve: list[tuple[int, float]], keep: float, ranked: bool) -> list[str]:
    """Say what the evaluation on the test split found."""
    findings, effect, count = [], trial.effect(), len(trial.problem.test)
    accuracy = {name: trial.accuracy(name) or 0.0 for name in ("frozen", "full", "truncated")}
    if ranked and not curve:
        findings.append(
            "Effect: the adapter does not change a logit of the dev split; no rank is needed there."
        )
    elif effect is not None:
        findings.append(
            f"Verified: on {count} test examples the truncated adapter keeps {effect:.1%} of the effect on "
            f"the logits; accuracy {accuracy['truncated']:.3f}, whole adapter {accuracy['full']:.3f}, frozen "
            f"model {accuracy['frozen']:.3f}."
        )
        if effect < keep - ZERO:
            findings.append(
                f"Below {keep:.1%}: ranks were chosen on the dev split, and the test split keeps less; ask "
                "for a higher keep, or give more dev examples."
            )
    if accuracy["full"] <= accuracy["frozen"]:
        findings.append(
            f"Accuracy: {accuracy['full']:.3f} with the adapter is not above {accuracy['frozen']:.3f} of the "
            "frozen model; give the task, head and suffix of its training."
        )
    return findings
