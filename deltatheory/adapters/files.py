"""The folder of an adapter in PEFT's format: found, and read as data that anybody may have written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from deltatheory.deltas.files import not_finite, read_safetensors

__all__ = [
    "BASE",
    "CONFIG",
    "WEIGHTS",
    "adapter_folder",
    "patterns_of",
    "peft_library",
    "read_config",
    "read_weights",
]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "deltatheory_base"  # note in WEIGHTS: the name here of the base that it was trained on
_OPENS_FILES = ("XLORA", "MULTITASK_PROMPT_TUNING")  # other adapters, and a checkpoint to start from
_CONVERT = (
    "a pickle such as adapter_model.bin runs code when opened. Convert it once where you trust it: load it "
    "with PEFT and save_pretrained"
)


def peft_library() -> Any:
    """Return the module `peft`, or say how to install it."""
    try:
        import peft
    except ImportError as error:
        raise ImportError("adapters of peft need peft: pip install 'deltatheory[peft]'") from error
    return peft


def adapter_folder(adapter: str | os.PathLike[str], revision: str | None) -> Path:
    """Return the folder of an adapter, from the hub where it is none on this machine.

    Raises:
        ValueError: for one that is not found, or lacks one of the two files.
    """
    folder = Path(adapter)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"adapter={str(adapter)!r}: must be a folder that holds {CONFIG} and {WEIGHTS}.")
    if not folder.is_dir():
        folder = _from_hub(str(adapter), revision)
    elif revision is not None:
        raise ValueError(f"revision={revision!r} is only for hub ids; {str(adapter)!r} is a local folder")
    for name, hint in (
        (CONFIG, "give a folder that PEFT wrote"),
        (WEIGHTS, f"nothing else is read: {_CONVERT}"),
    ):
        if not (folder / name).is_file():  # a pipe or a device is none
            raise ValueError(f"{str(adapter)!r} holds no {name}: {hint}.")
    return folder


def _from_hub(adapter: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    name, at, named = adapter.partition("@")
    if at and revision is not None:
        raise ValueError(f"revision={revision!r}: adapter={adapter!r} says another; give one.")
    revision = named if at else revision
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # offline, gated, misspelt: the hub client has a class for each
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"adapter={adapter!r} (revision={revision!r}) was not found: give a folder with {CONFIG} and "
            f"{WEIGHTS}, or a hub id that is reachable or cached. Cause: {cause}"
        ) from error


def read_config(folder: Path) -> Any:
    """Return PEFT's configuration of an adapter.

    Raises:
        ValueError: for what is none, and for one that reaches for other code or other files.
    """
    peft = peft_library()
    place = f"{CONFIG} of {str(folder)!r}"
    try:
        given = json.loads((folder / CONFIG).read_bytes())
        if not isinstance(given, dict):
            raise TypeError(f"must hold an object, not {type(given).__name__}")
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()  # no NaN, no half of a character
        config = peft.PeftConfig.from_pretrained(str(folder))
        kind = config.peft_type.value
    except Exception as error:  # PEFT raises what its constructors happen to raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{place} is no configuration of an adapter. Cause: {cause}") from error
    for name in ("base_model_name_or_path", "revision"):
        if not isinstance(value := getattr(config, name), str | None):
            raise ValueError(f"{place}: {name}={value!r} must be a text.")
    if kind in _OPENS_FILES or getattr(config, "megatron_config", None):
        raise ValueError(
            f"{place}: peft_type={kind!r} with these settings opens other files or imports a module: not "
            "supported."
        )
    return config


def patterns_of(config: Any) -> Iterator[str]:
    """Yield every text in a configuration that PEFT may match as a regular expression."""
    for name, value in config.to_dict().items():
        if name.endswith(("_modules", "_pattern")) or name == "modules_to_save":
            if value == "all-linear":
                continue
            # A list of modules has names; keys of a mapping, a text alone and the others are patterns.
            whole = [value] if isinstance(value, str) else () if name.endswith("_modules") else value
            yield from (x for x in whole or () if isinstance(x, str))


def read_weights(folder: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors of an adapter, and the name of its base here where this package wrote them.

    Raises:
        ValueError: for a damaged file, a pickle, or numbers that are not finite.
    """
    tensors, notes = read_safetensors(folder / WEIGHTS)
    if bad := not_finite(tensors):
        raise ValueError(f"{str(folder / WEIGHTS)!r}: {bad!r} has NaN or an infinity; its training diverged.")
    return tensors, notes.get(BASE)
