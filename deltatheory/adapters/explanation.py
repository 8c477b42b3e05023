"""What a trained adapter really uses: ranks, movement, and the smallest ranks that keep its effect."""

from __future__ import annotations

import copy
import math
import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deltatheory._shapes import Float
from deltatheory.adapters.module_use import ModuleUse, kind_of, movement_of, ratio, use_of
from deltatheory.adapters.peft_format import PeftDelta, load_adapter, to_peft
from deltatheory.adapters.truncation import ZERO, Bases, Factors, bases_of, factors_of, moments_of, truncate
from deltatheory.backbones import Backbone, load_backbone
from deltatheory.deltas import Delta
from deltatheory.deltas.files import load_delta, read_tensors
from deltatheory.deltas.lora import LoRA
from deltatheory.problems import FORWARD, ClassificationProblem
from deltatheory.problems.heads import make_head
from deltatheory.results import provenance, write_json
from deltatheory.tasks import Task, load_task

__all__ = ["Explanation", "ModuleUse", "explain"]

_KEEPS_BASE = ("gaussian", "eva", "orthogonal")  # starts of PEFT's LoRA that leave the base weights alone


@dataclass(frozen=True)
class Explanation:
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "adapter"}
        return copy.deepcopy(plain | {"modules": [asdict(m) for m in self.modules]})

    def save(self, folder: str | Path) -> None:
        """Write `explanation.json` and the truncated adapter, where there is one, as PEFT's `truncated/`."""
        write_json(Path(folder) / "explanation.json", self.to_dict())
        if self.adapter is not None:
            to_peft(*self.adapter, Path(folder) / "truncated")


def explain(
    adapter: str | os.PathLike[str],
    model: str | Backbone | nn.Module | None = None,
    task: str | Task | None = None,
    *,
    tokenizer: Any = None,
    check_name: bool = True,
    keep: float = 0.99,
    head: str = "label-words",
    suffix: str = "",
    examples: int = 256,
    max_length: int = 64,
    seed: int = 0,
    device: str | None = None,
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

    For other adapters that change parameters: movement only.

    Args:
        adapter: a folder in PEFT's format or a hub id (`load_adapter`), or a file of `save_delta`.
        model: what `load_backbone` takes; by default what the adapter names. At hand: a backbone for a file
            of `save_delta`; for PEFT's format the `transformers` model, prepared in place, with its
            tokenizer.
        task: a classification task, or what `load_task` takes.
        tokenizer: of a `transformers` model at hand.
        check_name: as in `load_adapter`.
        keep: share of the effect and of each spectrum, in (0, 1].
        head: a key of `deltatheory.problems.heads.HEADS`; give that of the training.
        suffix: of the verbalizer.
        examples: of each split, at most.
        max_length: longer texts are cut here.
        seed: of the draw of examples and of a random head.
        device: where to put the model; by default the CPU, or where a model at hand is.

    Raises:
        ImportError: without `peft`, for its format.
        FileNotFoundError: for a file that is not there.
        ValueError: for keep or examples out of range, an adapter that does not change a parameter or changes
            nothing, one whose start changed the base, and as `load_adapter`, `load_delta` and `make_head`.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: must lie in (0, 1].")
    began = time.perf_counter()
    task = load_task(task) if isinstance(task, str) else task
    backbone, delta, values = _load(adapter, model, tokenizer, check_name, device)
    asked = {"path": str(adapter), "specification": delta.specification()}
    findings = _left_out(delta)
    passes = 0.0
    factors = factors_of(delta, values)
    if factors is None:
        modules = movement_of(delta, values)
        findings.append(
            f"Ranks: they do not apply to {kind_of(delta)}, whose changes are not kept as two factors; the "
            "movement of its parameters is all there is."
        )
    else:
        delta, values = _as_lora(delta, values, factors)
        passes += 2 * FORWARD
        modules = [use_of(backbone, name, a, b, keep) for name, (a, b) in factors.items()]
        findings += _waste(modules)

    problem: ClassificationProblem | None = None
    logits: dict[str, Tensor] = {}
    if task is not None:
        with _switched_off(delta):
            length = min(max_length, backbone.max_length)
            frozen_head = make_head(head, backbone, task, seed=seed, max_length=length, suffix=suffix)
            small = _limited(task, examples, seed)
            problem = ClassificationProblem(
                backbone, small, delta, frozen_head, max_length=max_length, check=False
            )
            passes += frozen_head.passes
            logits["frozen"] = problem.predict(delta.initial(), problem.test)
        logits["full"] = problem.predict(values, problem.test)
        problem.restore()

    curve: list[tuple[int, float]] = []
    pattern: dict[str, int] = {}
    truncated: tuple[LoRA, Tensor] | None = None
    if factors is not None:
        assert isinstance(delta, LoRA)
        if problem is None:
            pattern = {m.name: m.used for m in modules if m.used}
            truncated = truncate(backbone, factors, bases_of(factors), pattern)
            findings.append(
                f"Unverified: without a task the ranks are those that hold {keep:.1%} of each spectrum; what "
                "they keep of the effect is not known."
            )
        else:
            moments = moments_of(problem, delta, values, factors)
            bases = bases_of(factors, moments)
            pattern, curve = _smallest(problem, delta, values, factors, bases, keep)
            if pattern:
                truncated = truncate(backbone, factors, bases, pattern)
                problem.delta = truncated[0]
                logits["truncated"] = problem.predict(truncated[1], problem.test)
        modules = [replace(m, kept=pattern.get(m.name, 0)) for m in modules]
    effect = None
    if "truncated" in logits and not torch.equal(logits["full"], logits["frozen"]):
        effect = effect_kept(logits["truncated"], logits["full"], logits["frozen"])
    accuracy: dict[str, float] = {}
    if problem is not None:
        right = problem.test.labels
        accuracy = {name: float((x.argmax(1) == right).double().mean()) for name, x in logits.items()}
        passes += problem.passes
        findings += _verdict(accuracy, len(right), curve, effect, keep, factors is not None)
    ranked = factors is not None
    return Explanation(
        modules=modules,
        movement=ratio(math.hypot(*(m.change for m in modules)), math.hypot(*(m.weight for m in modules))),
        total_rank=sum(m.rank or 0 for m in modules) if ranked else None,
        used_rank=sum(m.used or 0 for m in modules) if ranked else None,
        kept_rank=sum(pattern.values()) if ranked else None,
        rank_pattern=pattern,
        curve=curve,
        effect_kept=effect,
        frozen=accuracy.get("frozen"),
        full=accuracy.get("full"),
        truncated=accuracy.get("truncated"),
        findings=findings,
        passes=passes,
        seconds=time.perf_counter() - began,
        provenance={
            **provenance(),
            "adapter": asked,
            "model": backbone.provenance,
            "task": None if task is None else {"name": task.name, **task.provenance},
            "seed": seed,
            "settings": {
                "keep": keep,
                "head": head,
                "suffix": suffix,
                "examples": examples,
                "max_length": max_length,
            },
        },
        adapter=truncated,
    )


def effect_kept(
    logits: Float[Tensor, "n C"], full: Float[Tensor, "n C"], frozen: Float[Tensor, "n C"]
) -> float:
    """Return 1 − ‖logits − full‖² / ‖full − frozen‖².

    Args:
        logits: of the truncated adapter.
        full: of the whole adapter, not those of the frozen model.
        frozen: of the frozen model.
    """
    lost, whole = ((x - full).double().square().sum() for x in (logits, frozen))
    return float(1 - lost / whole)


def _load(
    adapter: str | os.PathLike[str],
    model: str | Backbone | nn.Module | None,
    tokenizer: Any,
    check_name: bool,
    device: str | None,
) -> tuple[Backbone, Delta, Tensor]:
    path = Path(adapter)
    if path.is_file() or path.suffix == ".safetensors":
        if isinstance(model, nn.Module):
            raise ValueError(
                f"model={type(model).__name__}: for a file of save_delta give a name or a Backbone; see "
                "load_backbone and wrap_model."
            )
        if model is None:
            model = str(read_tensors(path)[1].get("backbone", {}).get("name"))
        backbone = load_backbone(model) if isinstance(model, str) else model
        backbone = backbone.to(device) if device else backbone
        delta, values = load_delta(path, backbone)
        return backbone, delta, values
    if isinstance(model, Backbone):
        raise ValueError(
            "model=Backbone: for an adapter in PEFT's format give a name, or the transformers model with its "
            "tokenizer."
        )
    if isinstance(model, nn.Module):
        backbone, imported = load_adapter(adapter, model, tokenizer=tokenizer, check_name=check_name)
    else:
        backbone, imported = load_adapter(adapter, name=model, check_name=check_name)
    backbone = backbone.to(device) if device else backbone
    _require_base(imported)
    return backbone, imported, imported.initial()


def _require_base(delta: PeftDelta) -> None:
    """Refuse adapters after whose removal the base model is not what it was."""
    config = delta.model.active_peft_config
    start, bias = getattr(config, "init_lora_weights", True), getattr(config, "bias", "none")
    if isinstance(start, str) and start not in _KEEPS_BASE:
        raise ValueError(
            f"init_lora_weights={start!r} changed the base weights at its start: save the adapter with "
            "path_initial_model_for_weight_conversion, which makes a plain LoRA of it."
        )
    copies = [name for name in delta.coordinates.shapes if ".modules_to_save." in name]
    if bias not in ("none", False, True) or copies:
        raise ValueError(
            f"the adapter also keeps whole parameters of the transformer ({(copies or [bias])[0]!r}): "
            "allowed are bias='none' and modules_to_save outside of it."
        )


def _left_out(delta: Delta) -> list[str]:
    if not isinstance(delta, PeftDelta) or not delta.left_out:
        return []
    inner = [name for name in delta.left_out if ".lora_" in name]
    if inner:
        raise ValueError(f"the adapter also changes the output layer ({inner[0]!r}): not supported.")
    return [
        f"Left out: {len(delta.left_out)} trained tensors lie outside the transformer, such as "
        f"{delta.left_out[0]!r}; the task's head here is another, and the truncated adapter has none."
    ]


@torch.no_grad()
def _as_lora(delta: Delta, values: Tensor, factors: Factors) -> tuple[LoRA, Tensor]:
    """Return the same change as a LoRA of full rank; PEFT's layers are taken out of the model.

    Raises:
        ValueError: if nothing is changed, or the hidden states of a text are not the same.
    """
    backbone, kind, bases = delta.backbone, kind_of(delta), bases_of(factors)
    ranks = {n: len(s) for n, (_, s) in bases.items() if len(s)}
    if not ranks:
        raise ValueError(f"the adapter ({kind}) changes nothing: every B A is 0. Was it trained?")
    batch = backbone.encode(["a b c d e"])
    theirs = backbone.hidden_states(batch, delta.edit(values))
    if isinstance(delta, PeftDelta):
        delta.model.base_model.unload()  # the layers of the base model are back in their places
    lora, point = truncate(backbone, factors, bases, ranks)
    error = float((backbone.hidden_states(batch, lora.edit(point)) - theirs).abs().max())
    if error > torch.finfo(backbone.dtype).eps ** 0.5 * float(theirs.abs().max()):
        raise ValueError(
            f"the adapter ({kind}) does more than its factors say: its hidden states are others "
            f"by {error:.2g}."
        )
    return lora, point


def _smallest(
    problem: ClassificationProblem, lora: LoRA, values: Tensor, factors: Factors, bases: Bases, keep: float
) -> tuple[dict[str, int], list[tuple[int, float]]]:
    """Return the ranks of the smallest truncation that keeps the effect on dev, and all that was measured.

    Truncation k keeps the k largest of the singular values of all modules. Rank 0 keeps nothing, the frozen
    model; bisection ends at a k that keeps enough while k − 1 does not.
    """
    frozen, full = (problem.predict(x, problem.dev) for x in (lora.initial(), values))
    if torch.equal(frozen, full):
        return {}, []
    pairs = [(float(s), name) for name, (_, values) in bases.items() for s in values]
    order = [name for _, name in sorted(pairs, key=lambda pair: -pair[0])]
    effects = {0: 0.0}

    def enough(k: int) -> bool:
        problem.delta, point = truncate(problem.backbone, factors, bases, Counter(order[:k]))
        effects[k] = effect_kept(problem.predict(point, problem.dev), full, frozen)
        return effects[k] >= keep

    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    if high not in effects:
        enough(high)
    return {n: k for n, k in ((n, order[:high].count(n)) for n in factors) if k}, sorted(effects.items())


def _limited(task: Task, examples: int, seed: int) -> Task:
    """Draw at most so many examples of every split."""
    dev = np.random.default_rng(seed).permutation(len(task.dev))[:examples].tolist()
    smaller = task.limited(min(examples, len(task.train)), min(examples, len(task.test)), seed)
    return replace(smaller, dev=task.dev.subset(dev))


def _switched_off(delta: Delta) -> AbstractContextManager:
    """Let the model be the frozen one at δ = 0; only PEFT's layers are in it otherwise."""
    return delta.model.disable_adapter() if isinstance(delta, PeftDelta) else nullcontext()


def _waste(modules: list[ModuleUse]) -> list[str]:
    total, wasted = sum(m.rank or 0 for m in modules), sum(m.wasted or 0 for m in modules)
    idle = [m.name for m in modules if not m.used]
    findings = [f"Waste: {wasted} of the total rank {total} is not used by the spectra of ΔW."]
    if idle:
        findings.append(f"Idle: {len(idle)} of {len(modules)} modules do not change, such as {idle[0]!r}.")
    return findings


def _verdict(
    accuracy: Mapping[str, float],
    count: int,
    curve: list[tuple[int, float]],
    effect: float | None,
    keep: float,
    ranked: bool,
) -> list[str]:
    """Say what the evaluation on the test split found."""
    findings = []
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
