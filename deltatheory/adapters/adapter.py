"""A trained adapter on its base model, behind one face whatever its kind."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deltatheory._shapes import Float
from deltatheory.adapters.files import CONFIG
from deltatheory.adapters.imported import PeftDelta, from_peft
from deltatheory.adapters.loaded import load_adapter
from deltatheory.backbones import Backbone, load_backbone
from deltatheory.deltas import Delta, WithHead
from deltatheory.deltas.files import load_delta, read_tensors
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.subspace import project
from deltatheory.deltas.unilora import UniLoRA

__all__ = ["DELTA", "Factors", "PeftAdapter", "TrainedAdapter", "open_adapter", "place_of"]

DELTA, _RELEASE = "delta.safetensors", "adapter"

Factors = Mapping[str, tuple[Tensor, Tensor]]  # module name ↦ (A, B) with ΔW = B A

_KEEPS_BASE = ("gaussian", "eva", "orthogonal")  # starts of PEFT's LoRA that leave the base weights alone
_PLAIN = re.compile(r".*\.lora_[AB]\.[^.]+\.weight")


class TrainedAdapter:
    """A delta and its trained δ.

    Args:
        delta: the kind of change, and its backbone.
        values: δ.

    Attributes:
        head: kind and parameters of a head that was trained beside it; `delta` and `values` are without it.
    """

    def __init__(self, delta: Delta, values: Float[Tensor, " m"]) -> None:
        self.head: tuple[str, dict[str, Tensor]] | None = None
        if isinstance(delta, WithHead):
            values, parameters = delta.split(values)
            self.head, delta = (delta.head, parameters), delta.delta
        self.delta, self.values = delta, values

    @property
    def backbone(self) -> Backbone:
        """The base model."""
        return self.delta.backbone

    @property
    def kind(self) -> str:
        """What it is, for messages."""
        return f"delta={self.delta.name!r}, {self.delta.formula}"

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of trained tensors that lie outside the transformer, in the head of a task."""
        return tuple(self.head[1]) if self.head else ()

    @torch.no_grad()
    def factors(self) -> dict[str, tuple[Tensor, Tensor]] | None:
        """Return A and B of every module with ΔW = B A, the scaling in B; `None` if it is no plain LoRA."""
        delta, values = self.delta, self.values
        if isinstance(delta, UniLoRA):
            values, delta = project(delta.projection, values), delta.lora
        if not isinstance(delta, LoRA):
            return None
        return {n: (a, delta.scaling(n) * b) for n, (a, b) in delta.factors(values).items()}

    @torch.no_grad()
    def changes(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return every parameter that it changes, before and after."""
        new = self.delta.parameters(self.values)
        return {name: (self.backbone.model.get_parameter(name), after) for name, after in new.items()}

    def switched_off(self) -> AbstractContextManager:
        """Let the model be the frozen one at δ = 0."""
        return nullcontext()

    def unload(self) -> None:
        """Take layers of its own out of the model."""


class PeftAdapter(TrainedAdapter):
    """An adapter that `peft` holds, whose layers are in the model: δ = 0 is the adapter as it is.

    Args:
        delta: as `load_adapter` returns it.

    Raises:
        ValueError: for an adapter after whose removal the base model is not what it was.
    """

    delta: PeftDelta

    def __init__(self, delta: PeftDelta) -> None:
        super().__init__(delta, delta.initial())
        start, bias = getattr(self._config, "init_lora_weights", True), getattr(self._config, "bias", "none")
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
        inner = [name for name in delta.left_out if ".lora_" in name]
        if inner:
            raise ValueError(f"the adapter also changes the output layer ({inner[0]!r}): not supported.")

    @property
    def _config(self) -> Any:
        return self.delta.model.active_peft_config

    @property
    def kind(self) -> str:
        """What it is, for messages."""
        return f"peft_type={self._config.peft_type.value!r}"

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of trained tensors that lie outside the transformer, in the head of a task."""
        return self.delta.left_out

    @torch.no_grad()
    def factors(self) -> dict[str, tuple[Tensor, Tensor]] | None:
        """Return A and B of every module with ΔW = B A, the scaling in B; `None` if it is no plain LoRA."""
        plain = all(map(_PLAIN.fullmatch, self.delta.coordinates.shapes))  # no DoRA, embeddings, biases of B
        if self._config.peft_type.value != "LORA" or not plain:
            return None
        from peft.tuners.lora import LoraLayer

        key = self.delta.model.active_adapter
        found = {}
        for name, module in self.backbone.model.named_modules():
            if isinstance(module, LoraLayer) and not name.startswith("pooler."):  # not for hidden states
                layer: Any = module
                a, b = layer.lora_A[key].weight, layer.lora_B[key].weight
                found[name] = a.detach().clone(), layer.scaling[key] * b.detach()
        return found

    @torch.no_grad()
    def changes(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the parameters that differ after PEFT merges the adapter; the model stays as it was."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        pairs = {}
        for name, layer in self.backbone.model.named_modules():
            if not isinstance(layer, BaseTunerLayer):
                continue
            before = _base(layer)
            try:
                layer.merge()
            except RuntimeError as error:
                raise ValueError(f"the adapter ({self.kind}) is none that PEFT can merge: {error}") from error
            after = _base(layer)
            layer.unmerge()
            for n, p in layer.get_base_layer().named_parameters():
                p.data.copy_(before[n])
            pairs |= {
                f"{name}.{n}": (before[n], x) for n, x in after.items() if not torch.equal(before[n], x)
            }
        return pairs

    def switched_off(self) -> AbstractContextManager:
        """Let the model be the frozen one at δ = 0."""
        return self.delta.model.disable_adapter()

    def unload(self) -> None:
        """Put the layers of the base model back into their places."""
        self.delta.model.base_model.unload()


def _base(layer: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in layer.get_base_layer().named_parameters()}


def _named_in(path: Path) -> Backbone:
    """Load the backbone that a file of `save_delta` names, if it is on this machine."""
    there = read_tensors(path)[1].get("backbone")
    if not isinstance(there, dict) or not isinstance(there.get("name"), str):
        raise ValueError(f"{str(path)!r} names no backbone: it is no whole delta.")
    revision = None if there.get("weights_sha256") else there.get("revision")  # a digest names it better
    return load_backbone(there["name"], revision=revision and str(revision), download=False)


def place_of(adapter: str | os.PathLike[str]) -> Path:
    """Return where an adapter lies: a folder in PEFT's format, or a file of `save_delta`.

    Args:
        adapter: one of these, or a folder that `train` wrote, which holds either.
    """
    path = Path(adapter)
    if path.is_dir() and not (path / CONFIG).is_file():
        if (path / _RELEASE / CONFIG).is_file():
            return path / _RELEASE
        for inside in (path / DELTA, path / _RELEASE / DELTA):
            if inside.is_file():
                return inside
    return path


def open_adapter(
    adapter: str | os.PathLike[str] | tuple[Any, Any],
    model: str | Backbone | nn.Module | None = None,
    *,
    tokenizer: Any = None,
    check_name: bool = True,
    device: str | None = None,
) -> TrainedAdapter:
    """Load a trained adapter onto its base model.

    Args:
        adapter: a folder in PEFT's format or a hub id (`load_adapter`), a file of `save_delta`, or a folder
            of `train`; at hand: a pair of a `PeftModel` and the tokenizer of its base.
        model: what `load_backbone` takes; by default what the adapter names, if it is on this machine. At
            hand: a backbone for a file of `save_delta`; for PEFT's format the `transformers` model, prepared
            in place, with its tokenizer.
        tokenizer: of a `transformers` model at hand.
        check_name: as in `load_adapter`.
        device: where to put the model; by default the CPU, or where a model at hand is.

    Raises:
        ImportError: without `peft`, for its format.
        FileNotFoundError: for a file that is not there.
        ValueError: for a model at hand of the wrong kind, an adapter whose start changed the base, and as
            `load_adapter` and `load_delta`.
    """
    if isinstance(adapter, tuple):
        name = adapter[0].active_peft_config.base_model_name_or_path or "the model at hand"
        backbone, at_hand = from_peft(adapter[0], tokenizer=adapter[1], name=name)
        if device:
            backbone.to(device)
        return PeftAdapter(at_hand)
    path = place_of(adapter)
    if path.is_file() or path.suffix == ".safetensors":
        if isinstance(model, nn.Module):
            raise ValueError(
                f"model={type(model).__name__}: for a file of save_delta give a name or a Backbone; see "
                "load_backbone and wrap_model."
            )
        if model is None:
            backbone = _named_in(path)
        else:
            backbone = load_backbone(model) if isinstance(model, str) else model
        return TrainedAdapter(*load_delta(path, backbone.to(device) if device else backbone))
    if isinstance(model, Backbone):
        raise ValueError(
            "model=Backbone: for an adapter in PEFT's format give a name, or the transformers model with its "
            "tokenizer."
        )
    adapter = path if path.is_dir() else adapter
    if isinstance(model, nn.Module):
        backbone, imported = load_adapter(adapter, model, tokenizer=tokenizer, check_name=check_name)
    else:
        backbone, imported = load_adapter(adapter, name=model, check_name=check_name)
    if device:
        backbone.to(device)
    return PeftAdapter(imported)
