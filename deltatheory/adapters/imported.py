"""Adapters of the `peft` library, read as deltas."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deltatheory._shapes import Float
from deltatheory.adapters.files import peft_library
from deltatheory.autodiff import functional_call
from deltatheory.backbones import Backbone, Batch, Edit, wrap_model
from deltatheory.backbones.edit import with_prefix
from deltatheory.deltas import Delta
from deltatheory.deltas.coordinates import Coordinates

__all__ = ["PeftDelta", "from_peft"]

_TASK_IDS = ("POLY", "MULTITASK_PROMPT_TUNING")  # their forward asks of which task every text is


class _Attached(TorchFunctionMode):
    """Leaves nothing out of a derivative."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.detach else func(*args, **(kwargs or {}))


class _WithNorm(nn.Module):
    """A layer of DoRA whose derivative is that of what it computes: PEFT takes its norm for a constant."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _Attached():
            return super().forward(*args, **kwargs)

    def get_weight_norm(self, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ‖W + ΔW‖ by rows, of frozen weights: PEFT would take their transpose for a new parameter."""
        frozen = weight.data if isinstance(weight, nn.Parameter) else weight
        return super().get_weight_norm(frozen, *args, **kwargs)  # type: ignore[misc]


class _Seen(Exception):
    """Ends a forward pass after the last block."""


class _Prompt(nn.Module):
    """What PEFT puts before every text, as a function of the parameters of its encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.prompt_encoder[model.active_adapter]
        self._read = model.get_prompt

    def forward(self) -> Any:
        """Return word embeddings, shape (1, k, H), or a cache of keys and values."""
        return self._read(1)


class PeftDelta(Delta):
    """θ = θ_adapter + δ in all that a `peft.PeftModel` trains: δ = 0 is the adapter as it is.

    For a new LoRA, whose B is 0, that is the frozen model. `from_peft` and `load_adapter` make it; it is not
    in `DELTAS`, since it comes with a model. Its derivative is that of what is computed: PEFT's own training
    of a DoRA leaves the norm of the weights out (Liu et al. 2024, section 4.3).

    Args:
        backbone: around the base model inside `model`.
        model: a `peft.PeftModel`.
        trained: which of `model.named_parameters()` are tuned.

    Attributes:
        model: the `peft.PeftModel`.
        left_out: entries of `trained` that lie outside the transformer, in the head of a task. With
            head="own" a `ClassificationProblem` has the trained head, which `train_head` also joins to δ;
            with another kind it brings its own.

    Raises:
        ValueError: if nothing in the transformer or before its texts is tuned.
    """

    name: ClassVar[str] = "peft"
    family: ClassVar[str] = "imported"
    formula: ClassVar[str] = "θ = θ_adapter + δ"
    acts: ClassVar[str] = "where the PEFT adapter acts"
    affine: ClassVar[bool] = False
    exact_zero: bool = False  # δ = 0 is the adapter as it is

    def __init__(self, backbone: Backbone, model: Any, trained: Sequence[str]) -> None:
        super().__init__(backbone)
        self.model = model
        self._prompt = _Prompt(model) if model.active_peft_config.is_prompt_learning else None
        every = dict(model.named_parameters())
        names = {id(every[name]): name for name in trained}
        self._inner = _places(backbone.model, names)
        self._before = {} if self._prompt is None else _places(self._prompt, names)
        reached = {*self._inner.values(), *self._before.values()}
        self._start = {name: every[name] for name in trained if name in reached}
        self.left_out = tuple(name for name in trained if name not in reached)
        if not self._start:
            only = f" (only {self.left_out[0]!r}, in the head of a task)" if self.left_out else ""
            raise ValueError(
                f"model trains nothing in its transformer{only}: load it with is_trainable=True, or set "
                "requires_grad of the adapter's parameters."
            )
        self.coordinates = Coordinates({name: tuple(p.shape) for name, p in self._start.items()})
        self.size = self.coordinates.size
        digest = hashlib.sha256()
        for p in self._start.values():
            digest.update(p.detach().cpu().flatten().view(torch.uint8).numpy().data)
        self._start_sha256 = digest.hexdigest()

    def tensors(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return the tuned entries of `model.named_parameters()`, differentiable in δ."""
        pieces = self.coordinates.split(delta)
        return {name: p.detach() + pieces[name].to(p.dtype) for name, p in self._start.items()}

    @contextmanager
    def written(self, delta: Float[Tensor, " m"]) -> Iterator[Any]:
        """Let δ stand in the storage of `model`, which is yielded, and put its own values back at the end."""
        before = {name: p.detach().clone() for name, p in self._start.items()}
        new = self.tensors(delta.detach())
        try:
            for name, p in self._start.items():
                p.data.copy_(new[name])
            yield self.model
        finally:
            for name, p in self._start.items():
                p.data.copy_(before[name])

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return the tuned parameters in the transformer; one that several modules share under every name."""
        new = self.tensors(delta)
        return {place: new[name] for place, name in self._inner.items()}

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Return parameters, and the prompt or the prefix that PEFT puts before every text."""
        parameters = self.parameters(delta)
        if self._prompt is None:
            return Edit(parameters=parameters)
        new = self.tensors(delta)
        given = functional_call(self._prompt, {place: new[name] for place, name in self._before.items()})
        if isinstance(given, Tensor):  # with a second half for a decoder, of which PEFT takes no note
            length = self.model.active_peft_config.num_virtual_tokens
            return Edit(parameters=parameters, prompt=given[0, :length])
        # Of an encoder-decoder the cache is that of its decoder, before its own tokens alone.
        numbers = self.backbone.cached_attentions
        kept = getattr(given, "self_attention_cache", given).layers[: len(numbers)]
        attention = {
            t: with_prefix(x.keys, x.values, self.backbone.scores_before(t, shift=True))
            for t, x in zip(numbers, kept, strict=True)
            if x.keys is not None
        }
        # PEFT lets the positions of a text begin behind the prefix.
        return Edit(parameters=parameters, attention=attention, shift=int(given.get_seq_length()))

    def specification(self) -> dict:
        """PEFT's own configuration (a list where several act), and shapes and digest of what is tuned."""
        configs = [self.model.peft_config[name].to_dict() for name in self.model.active_adapters]
        plain = json.dumps(configs, default=lambda x: sorted(x) if isinstance(x, set) else str(x))
        config = json.loads(plain) if len(configs) > 1 else json.loads(plain)[0]
        shapes = {name: list(shape) for name, shape in self.coordinates.shapes.items()}
        return {
            "delta": self.name,
            "config": config,
            "parameters": shapes,
            "start_sha256": self._start_sha256,
        }


def _places(root: nn.Module, names: Mapping[int, str]) -> dict[str, str]:
    """Return every name in `root` of some parameters, by identity: name in `root` ↦ name given."""
    found = root.named_parameters(remove_duplicate=False)
    return {place: names[id(p)] for place, p in found if id(p) in names}


def from_peft(model: Any, *, tokenizer: Any, name: str, **options: Any) -> tuple[Backbone, PeftDelta]:
    """Return a backbone and a delta of a `peft.PeftModel`: δ is the offset of all that it trains.

    The model is prepared in place: evaluation mode, everything frozen. One text at a random δ must give the
    same hidden states as in PEFT's own forward: a method that does more than its parameters say is refused.

    Args:
        model: around an encoder's base model, a causal LM, or either with the head of a task.
        tokenizer: of the base model.
        name: of the base model, for provenance and messages.
        options: further arguments of `wrap_model`.

    Raises:
        ImportError: without `peft`.
        ValueError: for something else than a `PeftModel`, an unsupported architecture, nothing that is
            trained, an entry of target_modules that matches nothing, more virtual tokens than the model
            takes, an adapter that is merged or switched off, or a method that PEFT computes otherwise.
    """
    if not isinstance(model, peft_library().PeftModel):
        raise ValueError(
            f"model={type(model).__name__}: allowed is a peft.PeftModel; see peft.get_peft_model."
        )
    from peft.tuners.lora.dora import DoraLinearLayer
    from peft.utils.other import ModulesToSaveWrapper

    kind = model.active_peft_config.peft_type.value
    if kind in _TASK_IDS:
        raise ValueError(f"peft_type={kind!r} needs the number of a task with every text: not supported.")
    _require_targets(model)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    base = model.get_base_model()
    if hasattr(base, "disable_input_require_grads"):  # a hook that no derivative transform passes
        base.disable_input_require_grads()
    backbone = wrap_model(base, tokenizer, name=name, **options)
    if isinstance(head := backbone.classifier, ModulesToSaveWrapper):
        backbone.classifier = head.modules_to_save[head.active_adapters[0]]
    model.eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, DoraLinearLayer) and not isinstance(layer, _WithNorm):
            layer.__class__ = type(type(layer).__name__, (_WithNorm, type(layer)), {})
    delta = PeftDelta(backbone, model, trained)
    if backbone.kind == "encoder" and delta.edit(delta.initial()).prompt is not None:
        backbone.classifier = None  # there it reads the first virtual token, and here the text's own
    _require_faithful(delta)
    return backbone, delta


def _require_targets(model: Any) -> None:
    """Refuse an entry of target_modules that names no module: among others that do, PEFT is silent."""
    # Those that are excluded too; beside modules_to_save PEFT moves the module that was there.
    names = {n.replace(".original_module", "") for n, _ in model.get_base_model().named_modules()}
    for config in (model.peft_config[name] for name in model.active_adapters):
        targets = getattr(config, "target_modules", None)
        if targets is None or isinstance(targets, str):  # one pattern, of which PEFT itself says so
            continue
        missed = sorted(x for x in targets if not any(n == x or n.endswith(f".{x}") for n in names))
        if missed:
            raise ValueError(
                f"target_modules has {missed}, which match no module ({len(missed)} of {len(targets)} "
                "entries match none): leave them out of the adapter's configuration."
            )


def _probe(delta: PeftDelta, length: int) -> Batch:
    """Return a text, and as many rows of its length as hold all tokens that are trained one by one."""
    backbone, text = delta.backbone, "a b c d e"
    pad = backbone.tokenizer.pad_token_id  # PEFT's side may take it for padding
    trained = sorted({i for m in delta.model.modules() for i in _trained_tokens(m)} - {pad})
    width = backbone.encode([text], max_length=length).input_ids.shape[1]
    batch = backbone.encode([text] * (1 + -(-len(trained) // width)), max_length=length)
    ids = batch.input_ids.clone()
    ids[1:].view(-1)[: len(trained)] = torch.tensor(trained).to(ids)
    return replace(batch, input_ids=ids)


def _trained_tokens(module: nn.Module) -> Sequence[int]:
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    if not isinstance(module, TrainableTokensLayer):
        return ()
    return [int(i) for name in module.active_adapters for i in module.token_indices.get(name, ())]


@torch.no_grad()
def _require_faithful(delta: PeftDelta) -> None:
    """Hold the hidden states at a random δ to those of PEFT's own forward with δ in its storage."""
    backbone, config = delta.backbone, delta.model.active_peft_config
    kind, width = config.peft_type.value, config.num_virtual_tokens if config.is_prompt_learning else 0
    if width >= backbone.max_length:
        raise ValueError(
            f"num_virtual_tokens={width}: must be below {backbone.max_length}, which leaves "
            f"{backbone.name!r} room for one token of text."
        )
    batch = _probe(delta, backbone.max_length - width)
    start = delta.initial()
    point = start + 0.1 * torch.randn(delta.size, generator=torch.Generator().manual_seed(0)).to(start)
    seen: list[Tensor] = []

    def see(_module: nn.Module, _args: tuple, out: Any) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)
        raise _Seen  # what the head of a task makes of it is its own

    handle = backbone.layers[-1].register_forward_hook(see)
    try:
        with delta.written(point) as model:
            read = {} if batch.decoder is None else {"decoder_input_ids": batch.decoder.input_ids}
            with suppress(_Seen):
                model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), **read)
            theirs = backbone.readout(seen[-1], batch)
    finally:
        handle.remove()
    ours, still = (backbone.hidden_states(batch, delta.edit(x)) for x in (point, start))
    error = float((ours - theirs).abs().max())
    if not error <= torch.finfo(backbone.dtype).eps ** 0.5 * float(theirs.abs().max()):
        raise ValueError(
            f"peft_type={kind!r} is not supported: PEFT's own forward does more than its parameters say, and "
            f"its hidden states are others (by {error:.2g})."
        )
    if torch.equal(ours, still):
        raise ValueError(
            f"peft_type={kind!r}: what it trains does not act on the hidden states; if it is merged, call "
            "unmerge_adapter, and if it is switched off, enable_adapter_layers."
        )
