"""Policies as files: plain tensors in safetensors, with a JSON note that says how to use them.

One file. Tensors have a row for each of the n layers: `gain` (n, H) is added; `direction` (n, H), or
(n, m, H) of m half-spaces or features, is what is read; `target` (n,) or `bound` (n, m) is what it should
read; of an intervention r directions, of which `source` (n, r, H) and `offset` (n, r) say what they should
read; of an edit of the cache `key` and `value` (n, heads, width) are added, and of a prefix (n, heads, k,
width) stand before those of the text. The note, under "deltatheory" in
the metadata of safetensors, is an object:

- "format": "deltatheory.state-policy.1"
- "policy": which law; "law": in words and symbols
- "layers": numbers of the blocks at whose output it acts, counted from 0, in the order of the rows; those of
  a decoder go on behind those of its encoder
- "settings": "tokens", which are moved: "all", "prompt", "answer" or "last" (the end of the prompt and the
  tokens of the answer; of an encoder-decoder "prompt" are the encoder's, and "last" all that its
  decoder reads); and the law's numbers
- "model": "name", "hidden_size", "blocks" and "weights" (a fingerprint) of the model that it was made for; of
  an encoder-decoder "encoder_blocks" too, how many of the blocks are its encoder's
"""

from __future__ import annotations

import os

from deltatheory.control.generation.intervention import LowRankIntervention
from deltatheory.control.generation.policies import (
    AddedDirection,
    CacheEdit,
    GenerationPolicy,
    HalfSpaces,
    LayerPolicy,
    ScoreFeedback,
    ValueGuidance,
)
from deltatheory.control.generation.tuned import Prefix, TunedDelta
from deltatheory.deltas.files import read_tensors, save_delta, write_tensors

__all__ = ["load_policy", "save_policy"]

_FORMAT = "deltatheory.state-policy.1"
_ALL = (AddedDirection, HalfSpaces, ScoreFeedback, ValueGuidance, LowRankIntervention, CacheEdit, Prefix)
_KINDS = {kind.kind: kind for kind in _ALL}


def save_policy(path: str | os.PathLike[str], policy: GenerationPolicy) -> None:
    """Write a policy into one safetensors file; of a tuned delta that of `save_delta`, at s δ.

    Args:
        path: the file.
        policy: any.

    Raises:
        TypeError: for what has no file.
    """
    if isinstance(policy, TunedDelta):
        save_delta(path, policy.delta, policy.strength * policy.values)
        return
    if not isinstance(policy, LayerPolicy):
        raise TypeError(f"policy={type(policy).__name__}: allowed are LayerPolicy and TunedDelta.")
    note = {
        "format": _FORMAT,
        "policy": policy.kind,
        "law": policy.law,
        "layers": list(policy.layers),
        "settings": policy.numbers(),
        "model": dict(policy.model),
    }
    write_tensors(path, policy.tensors(), note)


def load_policy(path: str | os.PathLike[str]) -> LayerPolicy:
    """Return the policy that `save_policy`, or another program by the same layout, wrote.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a damaged file, another kind of file, or a policy that cannot be.
    """
    tensors, note = read_tensors(path)
    if note.get("format") != _FORMAT or note.get("policy") not in _KINDS:
        raise ValueError(
            f"{str(path)!r} holds {note.get('format')!r}, {note.get('policy')!r}: allowed is "
            f"{_FORMAT!r} with {', '.join(_KINDS)}."
        )
    try:
        return _KINDS[note["policy"]](
            layers=tuple(note["layers"]),
            model=note["model"],
            **tensors,
            **note["settings"],
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{str(path)!r} is no whole policy ({error}): write it again.") from error
