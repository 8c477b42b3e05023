"""Adapters of the `peft` library, read as deltas."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deltatheory._shapes import Float
from deltatheory.autodiff import functional_call
from deltatheory.backbones import Backbone, Edit, load_checkpoint, wrap_model
from deltatheory.backbones.edit import with_prefix
from deltatheory.deltas import Delta
from deltatheory.deltas.coordinates import Coordinates

__all__ = ["PeftDelta", "from_peft", "load_adapter", "peft_library"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TASK_IDS = ("POLY", "MULTITASK_PROMPT_TUNING")  # their forward asks of which task every text is


def peft_library() -> Any:
    """Return the module `peft`, or say how to install it."""
    try:
        import peft
    except ImportError as error:
        raise ImportError("adapters of peft need peft: pip install 'deltatheory[peft]'") from error
    return peft


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
    in `DELTAS`, since it comes with a model. DoRA does not pass a problem's self-check: PEFT leaves the norm
    of the weights out of its derivative.

    Args:
        backbone: around the base model inside `model`.
        model: a `peft.PeftModel`.
        trained: which of `model.named_parameters()` are tuned.

    Attributes:
        model: the `peft.PeftModel`.
        left_out: entries of `trained` that lie outside the transformer, in the head of a task: a
            `ClassificationProblem` brings its own head.

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
        if isinstance(given, Tensor):
            return Edit(parameters=parameters, prompt=given[0])
        attention = {
            t: with_prefix(x.keys, x.values) for t, x in enumerate(given.layers) if x.keys is not None
        }
        # PEFT lets the positions of a text begin behind the prefix.
        return Edit(parameters=parameters, attention=attention, shift=int(given.get_seq_length()))

    def specification(self) -> dict:
        """PEFT's own configuration and the shapes of what is tuned; the values are the adapter's."""
        config = self.model.active_peft_config
        plain = json.dumps(config.to_dict(), default=lambda x: sorted(x) if isinstance(x, set) else str(x))
        shapes = {name: list(shape) for name, shape in self.coordinates.shapes.items()}
        return {"delta": self.name, "config": json.loads(plain), "parameters": shapes}


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
    kind = model.active_peft_config.peft_type.value
    if kind in _TASK_IDS:
        raise ValueError(f"peft_type={kind!r} needs the number of a task with every text: not supported.")
    _require_targets(model)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    base = model.get_base_model()
    if hasattr(base, "disable_input_require_grads"):  # a hook that no derivative transform passes
        base.disable_input_require_grads()
    backbone = wrap_model(base, tokenizer, name=name, **options)
    model.eval().requires_grad_(False)
    delta = PeftDelta(backbone, model, trained)
    _require_faithful(delta)
    return backbone, delta


def _require_targets(model: Any) -> None:
    """Refuse an entry of target_modules that matches nothing: among others that match, PEFT is silent."""
    targets = getattr(model.active_peft_config, "target_modules", None)
    if targets is None or isinstance(targets, str):  # one pattern, of which PEFT itself says so
        return
    found = model.base_model.targeted_module_names
    missed = sorted(x for x in targets if not any(n == x or n.endswith(f".{x}") for n in found))
    if missed:
        raise ValueError(
            f"target_modules has {missed}, which match no module ({len(missed)} of {len(targets)} entries "
            "match none): leave them out of the adapter's configuration."
        )


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
    batch = backbone.encode(["a b c d e"], max_length=backbone.max_length - width)
    start = delta.initial()
    point = start + 0.1 * torch.randn(delta.size, generator=torch.Generator().manual_seed(0)).to(start)
    seen: list[Tensor] = []

    def see(_module: nn.Module, _args: tuple, out: Any) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)

    handle = backbone.layers[-1].register_forward_hook(see)
    try:
        with delta.written(point) as model:
            model(input_ids=batch.input_ids, attention_mask=batch.mask.long())
            theirs = backbone.readout(seen[-1])[:, -batch.input_ids.shape[1] :]
    finally:
        handle.remove()
    ours, still = (backbone.hidden_states(batch, delta.edit(x)) for x in (point, start))
    error = float((ours - theirs).abs().max())
    if error > torch.finfo(backbone.dtype).eps ** 0.5 * float(theirs.abs().max()):
        raise ValueError(
            f"peft_type={kind!r} is not supported: PEFT's own forward does more than its parameters say, and "
            f"its hidden states are others (by {error:.2g})."
        )
    if torch.equal(ours, still):
        raise ValueError(
            f"peft_type={kind!r}: what it trains does not act on the hidden states; if it is merged, call "
            "unmerge_adapter, and if it is switched off, enable_adapter_layers."
        )


def load_adapter(
    adapter: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    tokenizer: Any = None,
    name: str | None = None,
    revision: str | None = None,
    check_name: bool = True,
    **options: Any,
) -> tuple[Backbone, PeftDelta]:
    """Load an adapter in PEFT's format onto its base model, as a backbone and a delta (`from_peft`).

    Args:
        adapter: a folder with adapter_config.json and adapter_model.safetensors, or a hub id.
        model: the base model, changed in place; by default the one that adapter_config.json names.
        tokenizer: of `model`.
        name: of `model`, where it is not what its configuration says.
        revision: of a hub id.
        check_name: whether the last part of the base model's name must be the one in adapter_config.json.
        options: further arguments of `wrap_model`.

    Raises:
        ImportError: without `peft`.
        ValueError: for an adapter that is not found or not safetensors, one of another base model, a model
            without a tokenizer, and as `from_peft`.
    """
    peft = peft_library()
    folder = _adapter_folder(adapter, revision)
    config = peft.PeftConfig.from_pretrained(str(folder))
    there = config.base_model_name_or_path or ""
    if model is None:
        if not there:
            raise ValueError(f"{str(adapter)!r} names no base model: give model and tokenizer.")
        model, tokenizer, found = load_checkpoint(name or there, revision=None if name else config.revision)
        options = found | options
        name = options.pop("name")
    elif tokenizer is None:
        raise ValueError("tokenizer=None: a model at hand needs its tokenizer.")
    own: str = getattr(model.config, "_name_or_path", "")
    here = [x for x in (name, own) if x]
    if check_name and there and here and _last(there) not in map(_last, here):
        raise ValueError(
            f"{str(adapter)!r} is an adapter of {there!r}, and model is {here[0]!r}: load that one, or pass "
            "check_name=False if they are the same under two names."
        )
    label = name or own or there
    wrapped = _wrapped(peft, model, folder, config, f"{str(adapter)!r}, an adapter of {there!r},", label)
    return from_peft(wrapped, tokenizer=tokenizer, name=label, **options)


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def _adapter_folder(adapter: str | os.PathLike[str], revision: str | None) -> Path:
    folder = Path(adapter)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(str(adapter), revision=revision, allow_patterns=[CONFIG, WEIGHTS])
            )
        except Exception as error:  # offline, gated, misspelt: the hub client has a class for each
            raise ValueError(
                f"adapter={str(adapter)!r} (revision={revision!r}) was not found: give a folder with "
                f"{CONFIG} and {WEIGHTS}, or a hub id that is reachable or cached. "
                f"Cause: {type(error).__name__}: {error}"
            ) from error
    elif revision is not None:
        raise ValueError(f"revision={revision!r} is only for hub ids; {str(adapter)!r} is a local folder")
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{str(adapter)!r} holds no {CONFIG}: give a folder that PEFT wrote.")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{str(adapter)!r} holds no {WEIGHTS}, and nothing else is read: a pickle such as "
            "adapter_model.bin runs code when opened. Convert it once where you trust it: load it with PEFT "
            "and save_pretrained."
        )
    return folder


def _wrapped(peft: Any, model: nn.Module, folder: Path, config: Any, adapter: str, name: str) -> Any:
    """Return the model with the adapter in it, trainable, each tensor of the file used, none left random."""
    from safetensors import safe_open

    try:
        wrapped = peft.PeftModel.from_pretrained(
            model,
            str(folder),
            is_trainable=not config.is_prompt_learning,
            torch_device=str(next(model.parameters()).device),
        )
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{adapter} does not fit {name!r} ({type(model).__name__}): {error}") from error
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        stored = set(file.keys())
    wanted = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys()
    wrong = sorted((wanted - stored) | (stored - wanted - wrapped.state_dict().keys()))
    if wrong:
        raise ValueError(
            f"{adapter} does not fit {name!r} ({type(model).__name__}): {len(wrong)} tensors are in its file "
            f"and not in the model, or the other way round, such as {wrong[0]!r}."
        )
    if config.is_prompt_learning:  # PEFT loads a prompt for inference only
        for part, p in wrapped.prompt_encoder.named_parameters():
            p.requires_grad_(not part.endswith("frozen_embedding"))
    return wrapped
