"""Tensors with a description in one file, whole or absent, and trained deltas kept that way.

Only safetensors is written and read: a pickle runs code when it is opened.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas import DELTAS, Delta, WithHead, make_delta
from deltatheory.results import write_atomically

__all__ = ["load_delta", "not_finite", "read_safetensors", "read_tensors", "save_delta", "write_tensors"]

_KEY = "deltatheory"  # of the description in the file's metadata
_FORMAT = "delta 1"
_HEAD = "head."  # before the names of its parameters
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
}


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], description: Mapping) -> None:
    """Write tensors and their description (JSON values) into one safetensors file, atomically.

    Not by the library: it would copy twice what may be three times as long as θ, or take a name of its own.
    The format is the length of a JSON header, in eight bytes, the header, and the numbers.
    """
    named = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # each then is aligned
    places = pairwise([0, *accumulate(x.nbytes for _, x in named)])
    header: dict[str, Any] = {"__metadata__": {_KEY: json.dumps(description, allow_nan=False)}} | {
        name: {"dtype": _TYPES[x.dtype], "shape": list(x.shape), "data_offsets": list(place)}
        for (name, x), place in zip(named, places, strict=True)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = (x.detach().cpu().reshape(-1).view(torch.uint8).numpy().data for _, x in named)
    write_atomically(path, len(text).to_bytes(8, "little") + text, *numbers)


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, on the CPU, and its notes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a pipe, a device or a folder, for a pickle, or a damaged file.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No file {str(path)!r}.")
    if not path.is_file():  # before it is opened: a pipe would block for ever
        raise ValueError(f"{str(path)!r} is no plain file: give a safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: in the file a tensor begins at any byte, and the last bits of a product depend on that.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError:
        raise
    except Exception as error:  # whatever the library meets in damaged bytes
        if _is_pickle(path):
            raise ValueError(
                f"{str(path)!r} is a pickle (torch.save), which runs code when opened: only safetensors is "
                "read."
            ) from None
        cause = " ".join(str(error).split())
        raise ValueError(f"{str(path)!r} is no whole safetensors file ({cause}): delete it.") from error


def _is_pickle(path: Path) -> bool:
    """Tell what is no safetensors: that begins with a length, which may look like the start of a pickle."""
    with path.open("rb") as stream:
        start = stream.read(9)
    return start[8:] != b"{" and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict]:
    """Return what `write_tensors` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `read_safetensors`, and for a file without a description of this package.
    """
    tensors, notes = read_safetensors(path)
    if _KEY not in notes:
        raise ValueError(f"{str(path)!r} was not written by deltatheory: it has no {_KEY!r} note.")
    try:
        description = json.loads(notes[_KEY])
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: its {_KEY!r} note is no JSON ({error}): delete it.") from error
    if not isinstance(description, dict):
        raise ValueError(f"{str(path)!r}: its {_KEY!r} note must be an object: delete it.")
    return tensors, description


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that has NaN or an infinity."""
    return next((name for name, x in tensors.items() if not bool(x.isfinite().all())), None)


def save_delta(path: str | os.PathLike[str], delta: Delta, values: Float[Tensor, " m"]) -> None:
    """Write a trained δ with all that rebuilds the change: its kind, options and seed, and its backbone.

    A head that was trained beside it is written as it is, not as an offset.

    Args:
        path: the file.
        delta: the kind of change and its backbone.
        values: δ.

    Raises:
        ValueError: if δ has not the delta's size.
    """
    _check_size(values, delta)
    about, head = {}, {}
    if isinstance(delta, WithHead):
        about = {"head": delta.head}
        values, head = delta.split(values)
        delta = delta.delta
    note = {
        "format": _FORMAT,
        "specification": delta.specification(),
        "backbone": delta.backbone.provenance,
        **about,
    }
    write_tensors(path, {"delta": values, **{_HEAD + name: p for name, p in head.items()}}, note)


def load_delta(path: str | os.PathLike[str], backbone: Backbone) -> tuple[Delta, Float[Tensor, " m"]]:
    """Return the delta and δ that `save_delta` wrote, on a backbone.

    Where a head was trained beside it, they are of a `WithHead` that starts from the trained head.

    Args:
        path: the file.
        backbone: the one that δ was trained on, loaded again.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a pickle, a damaged file, another kind of file, numbers that are not finite, or
            another backbone.
    """
    tensors, note = read_tensors(path)
    if note.get("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} holds {note.get('format')!r}: allowed is {_FORMAT!r}.")
    there, specification = note.get("backbone"), note.get("specification")
    if not (isinstance(there, dict) and isinstance(specification, dict) and "delta" in tensors):
        raise ValueError(f"{str(path)!r} lacks the backbone, the specification or δ: it is no whole delta.")
    if not_finite(tensors):
        raise ValueError(f"{str(path)!r}: δ is not finite; its training diverged.")
    here = backbone.provenance
    keys = ["architecture", "parameters", "weights_sha256"]
    if not (here["weights_sha256"] and there.get("weights_sha256")):  # a hub id is known by its commit
        keys[2:] = ["name", "revision"]
    if "files_sha256" in here and "files_sha256" in there:  # older files do not name it
        keys.append("files_sha256")
    for key in keys:
        if here[key] != there.get(key):
            raise ValueError(
                f"{str(path)!r} was trained on another backbone: {key}={there.get(key)!r}, and that of "
                f"{backbone.name!r} is {here[key]!r}. Load {there.get('name')!r}."
            )
    delta = _rebuilt(specification, backbone)
    values = tensors["delta"].to(backbone.device, backbone.wide_dtype)
    _check_size(values, delta)
    head = {n.removeprefix(_HEAD): p.to(values) for n, p in tensors.items() if n.startswith(_HEAD)}
    if not head:
        return delta, values
    if not isinstance(note.get("head"), str):
        raise ValueError(f"{str(path)!r} does not say of which head its tensors are: it is no whole delta.")
    whole = WithHead(delta, note["head"], head)
    return whole, torch.cat([values, values.new_zeros(whole.size - delta.size)])


def _check_size(values: Tensor, delta: Delta) -> None:
    if values.shape != (delta.size,):
        raise ValueError(f"values.shape={tuple(values.shape)}: {delta.name!r} needs ({delta.size},).")


def _rebuilt(specification: dict, backbone: Backbone) -> Delta:
    """Make a delta of its specification, which holds the arguments of its class."""
    name = str(specification.get("delta"))
    known = inspect.signature(DELTAS[name]).parameters if name in DELTAS else {}
    options = {key: value for key, value in specification.items() if key in known}
    delta = make_delta(name, backbone, **options)
    if json.loads(json.dumps(delta.specification())) != specification:
        raise ValueError(f"specification={specification}: this version makes {delta.specification()} of it.")
    return delta
