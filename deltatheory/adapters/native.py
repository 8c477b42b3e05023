"""Adapters of `peft` as the deltas of this package that they are."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.adapters.adapter import PeftAdapter, TrainedAdapter, open_adapter
from deltatheory.adapters.handed_on import classifier_beside
from deltatheory.deltas import Delta
from deltatheory.deltas.ia3 import IA3
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import PromptTuning
from deltatheory.deltas.selected import Modules
from deltatheory.problems import ClassificationProblem, Setup

__all__ = ["native", "opened", "tuned_problem"]


@torch.no_grad()
def native(held: TrainedAdapter) -> TrainedAdapter:
    """Return the same change with a δ whose zero is the frozen model or its start, not the adapter.

    Args:
        held: whose layers of its own, if it has some, are out of the model afterwards.

    Raises:
        ValueError: for an adapter of `peft` that no delta here is.
    """
    if not isinstance(held, PeftAdapter):
        return held
    backbone = held.backbone
    batch = backbone.encode(["a b c d e"])
    theirs = backbone.hidden_states(batch, held.delta.edit(held.values))
    kind, factors = held.delta.model.active_peft_config.peft_type.value, held.factors()
    if factors is not None:
        held.unload()
        delta, values = _lora(held, factors)
    elif held.delta.model.active_peft_config.is_prompt_learning:
        delta, values = _virtual_tokens(held)
    elif kind == "IA3":
        delta, values = _ia3(held)
    elif kind == "LN_TUNING":
        changes = held.changes()
        held.unload()
        delta = Modules(backbone, patterns=list(changes))
        values = delta.coordinates.join({name: after - own for name, (own, after) in changes.items()})
    else:
        raise _no_form(held)
    ours = backbone.hidden_states(batch, delta.edit(values))
    if float((ours - theirs).abs().max()) > torch.finfo(backbone.dtype).eps ** 0.5 * float(
        theirs.abs().max()
    ):
        raise _no_form(held)
    found = TrainedAdapter(delta, values)
    found.head = held.head
    return found


def _no_form(held: TrainedAdapter) -> ValueError:
    return ValueError(
        f"the adapter ({held.kind}) is no delta of this package: allowed are plain LoRA, (IA)³ on keys, "
        "values and the FFN, tuned norms, prefixes and prompts."
    )


def _lora(held: PeftAdapter, factors: dict[str, tuple[Tensor, Tensor]]) -> tuple[Delta, Tensor]:
    ranks = {name: len(a) for name, (a, _) in factors.items()}
    widest = max(ranks.values())
    pattern = {re.escape(name): rank for name, rank in ranks.items() if rank != widest}
    lora = LoRA(held.backbone, r=widest, targets=list(factors), rank_pattern=pattern)
    pieces = {}
    for name, (start, _) in lora.factors(lora.initial()).items():
        a, b = factors[name]
        pieces |= {f"{name}.A": a.to(start) - start, f"{name}.B": b.to(start)}
    return lora, lora.coordinates.join(pieces)


def _virtual_tokens(held: PeftAdapter) -> tuple[Delta, Tensor]:
    """Return what PEFT puts before a text, whatever made it, as keys and values or as embeddings."""
    given: Any = held.delta.model.get_prompt(1)
    if isinstance(given, Tensor):
        prompt = PromptTuning(held.backbone, length=given.shape[1])
        return prompt, (given[0] - prompt.prompt(prompt.initial())).reshape(-1)
    pairs = {t: (x.keys[0], x.values[0]) for t, x in enumerate(given.layers) if x.keys is not None}
    prefix = PrefixTuning(held.backbone, length=int(given.get_seq_length()), gate="none", shift=True)
    return prefix, prefix.delta_of(pairs)


def _ia3(held: PeftAdapter) -> tuple[Delta, Tensor]:
    key = held.delta.model.active_adapter
    layers: dict[str, Any] = dict(held.backbone.model.named_modules())
    scales = {n: x.ia3_l[key].detach().flatten() for n, x in layers.items() if hasattr(x, "ia3_l")}
    held.unload()
    ia3 = IA3(held.backbone)
    names, name_of = {}, held.backbone.module_name
    for t in held.backbone.attention_modules:
        places = {"key": name_of(t, "key"), "value": name_of(t, "value"), "ffn": name_of(t, "ffn_out")}
        names |= {f"{t}.{part}": name for part, name in places.items()}
    if set(names.values()) != scales.keys():  # other modules, or queries, keys and values in one
        raise _no_form(held)
    return ia3, ia3.coordinates.join({part: scales[name] - 1 for part, name in names.items()})


def opened(adapter: str | os.PathLike[str], setup: Setup) -> TrainedAdapter:
    """Return a trained adapter on the base that it names, or on the setup's model where that is not here.

    Raises:
        ValueError: as `open_adapter`.
    """
    try:
        return open_adapter(adapter, device=setup.device)
    except ValueError:
        model = setup.model if isinstance(setup.model, str) else setup.backbone
        return open_adapter(adapter, model, device=setup.device)


def tuned_problem(
    adapter: str | os.PathLike[str] | TrainedAdapter, setup: Setup
) -> tuple[ClassificationProblem, Float[Tensor, " m"]]:
    """Return the problem of a trained adapter on a task, and its δ.

    Args:
        adapter: what `open_adapter` takes, or what it returned. Its base is the one that it names, or the
            setup's model where that is not on this machine.
        setup: the task; a head that lies beside the adapter, or was trained with it, is taken where it has
            the task's classes.

    Raises:
        ValueError: as `open_adapter`, `native` and the problem.
    """
    held = native(adapter if isinstance(adapter, TrainedAdapter) else opened(adapter, setup))
    setup = setup.replace(model=held.backbone)
    beside = None if isinstance(adapter, TrainedAdapter) else classifier_beside(adapter, held.backbone)
    if beside is not None and beside.label_names == setup.task.label_names:
        setup = setup.replace(head=beside.head)
    elif held.head is not None:
        setup.head.check(*held.head)
        setup = setup.replace(head=setup.head.trained(held.head[1]))
    return setup.classification(held.delta), held.values
