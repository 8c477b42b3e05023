from __future__ import annotations

import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem

from deltatheory.backbones.load import _read_weights
from deltatheory.deltas import make_delta
from deltatheory.deltas.files import load_delta, read_tensors, save_delta, write_tensors
from deltatheory.results import write_json
from deltatheory.training.checkpoint import Checkpoint

CASES = [
    ("lora", {"r": 2, "alpha": 7.0, "targets": ["query"], "seed": 5}),
    ("lora", {"r": 3, "alpha": 0.1}),
    ("subspace", {"d": 9, "projection": "gaussian", "seed": 4}),
    ("layerwise-subspace", {"d": 9, "scope": "all"}),
    ("full", {}),
]


def saved(path, name="lora", options=None, family="bert"):
    delta = make_delta(name, tiny(family), **({"r": 2} if options is None else options))
    values = 0.1 * torch.randn(delta.size, generator=torch.Generator().manual_seed(0))
    save_delta(path, delta, values)
    return delta, values


@pytest.mark.parametrize(("name", "options"), CASES)
def test_what_was_saved_is_the_same_function_again(tmp_path, name, options):
    file = tmp_path / "delta.safetensors"
    before, values = saved(file, name, options)
    after, loaded = load_delta(file, tiny("bert"))
    assert type(after) is type(before)
    assert after.specification() == before.specification()
    assert torch.equal(loaded, values)
    there, here = before.edit(values).parameters, after.edit(loaded).parameters
    assert there.keys() == here.keys()
    assert all(torch.equal(there[key], here[key]) for key in there)


def test_the_file_says_what_it_is(tmp_path):
    file = tmp_path / "delta.safetensors"
    delta, _ = saved(file, options={"r": 2, "seed": 3})
    tensors, note = read_tensors(file)
    assert set(tensors) == {"delta"}
    assert note["backbone"] == delta.backbone.provenance
    assert note["specification"]["seed"] == 3
    assert note["format"] == "delta 1"


@pytest.mark.parametrize(
    ("key", "value"),
    [("weights_sha256", "b" * 64), ("architecture", "GPT2Model"), ("parameters", 1)],
)
def test_another_backbone_is_refused(tmp_path, key, value):
    file = tmp_path / "delta.safetensors"
    known = tiny("bert")
    known.provenance["weights_sha256"] = "a" * 64
    delta = make_delta("lora", known, r=2)
    save_delta(file, delta, delta.initial())
    moved = replace(known, provenance={**known.provenance, "name": "elsewhere", "revision": "v2"})
    load_delta(file, moved)  # the same weights under another name
    other = replace(known, provenance={**known.provenance, key: value})
    with pytest.raises(ValueError, match=f"was trained on another backbone: {key}=.*Load 'tiny-bert'"):
        load_delta(file, other)


def test_another_tokenizer_is_another_backbone(tmp_path):
    file = tmp_path / "delta.safetensors"
    backbone = tiny("bert")
    settings = {"weights_sha256": "a", "files_sha256": "b"}
    known = replace(backbone, provenance={**backbone.provenance, **settings})
    delta = make_delta("bitfit", known)
    save_delta(file, delta, torch.zeros(delta.size))
    load_delta(file, known)
    load_delta(file, replace(backbone, provenance={**backbone.provenance, "weights_sha256": "a"}))
    with pytest.raises(
        ValueError, match="another backbone: files_sha256='b', and that of 'tiny-bert' is 'c'"
    ):
        load_delta(file, replace(known, provenance={**known.provenance, "files_sha256": "c"}))


def test_without_a_digest_name_and_revision_decide(tmp_path):
    file = tmp_path / "delta.safetensors"
    saved(file)
    backbone = tiny("bert")
    backbone.provenance["revision"] = "v2"
    with pytest.raises(ValueError, match="another backbone: revision=None, and that of 'tiny-bert' is 'v2'"):
        load_delta(file, backbone)


def test_a_real_other_model_is_refused(tmp_path):
    file = tmp_path / "delta.safetensors"
    saved(file)
    with pytest.raises(ValueError, match="architecture='BertModel', and that of 'tiny-gpt2' is 'GPT2Model'"):
        load_delta(file, tiny("gpt2"))


def test_pickles_are_refused_unopened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    file = tmp_path / "delta.safetensors"
    torch.save({"delta": torch.zeros(3)}, file)
    backbone = tiny("bert")
    with pytest.raises(ValueError, match=r"is a pickle \(torch.save\), which runs code when opened"):
        load_delta(file, backbone)
    for protocol in (2, 3, 4, 5):
        file.write_bytes(pickle.dumps(Trap(), protocol))
        with pytest.raises(ValueError, match="is a pickle"):
            load_delta(file, backbone)
    file.write_bytes(pickle.dumps(Trap(), 0))
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load_delta(file, backbone)


def test_damaged_and_strange_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    file, backbone = tmp_path / "delta.safetensors", tiny("bert")
    with pytest.raises(FileNotFoundError, match="No file"):
        load_delta(file, backbone)
    saved(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load_delta(file, backbone)
    save_file({"delta": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="was not written by deltatheory"):
        load_delta(file, backbone)
    write_tensors(file, {"delta": torch.zeros(3)}, {"format": "checkpoint 1"})
    with pytest.raises(ValueError, match="holds 'checkpoint 1': allowed is 'delta 1'"):
        load_delta(file, backbone)
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load_delta(file, backbone)


def test_a_delta_of_another_size_is_refused(tmp_path):
    delta = toy_problem("lora", r=2).delta
    with pytest.raises(ValueError, match=rf"values.shape=\(3,\): 'lora' needs \({delta.size},\)"):
        save_delta(tmp_path / "x", delta, torch.zeros(3))
    assert not (tmp_path / "x").exists()


def test_a_specification_that_makes_another_delta_is_refused(tmp_path):
    file = tmp_path / "delta.safetensors"
    saved(file)
    tensors, note = read_tensors(file)
    note["specification"]["added_later"] = 1
    write_tensors(file, tensors, json.loads(json.dumps(note)))
    with pytest.raises(ValueError, match="this version makes"):
        load_delta(file, tiny("bert"))


# A safetensors file begins with the length of its header: 640 as the bytes 80 02, 19280 as PK.
PICKLE_LIKE = (640, 896, 1152, 1408, 19280)


def padded(path, length: int) -> None:
    """Write a file again with a header of that length."""
    whole = path.read_bytes()
    old = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + old])
    spare = length - len(json.dumps(header | {"__metadata__": {**header.get("__metadata__", {}), "pad": ""}}))
    header["__metadata__"] = {**header.get("__metadata__", {}), "pad": "a" * spare}
    path.write_bytes(length.to_bytes(8, "little") + json.dumps(header).encode() + whole[8 + old :])


@pytest.mark.parametrize("length", PICKLE_LIKE)
def test_a_header_of_a_length_that_a_pickle_starts_with(tmp_path, length):
    """Whoever reads: a delta, a checkpoint, a model."""
    from safetensors.torch import save_file

    file, backbone = tmp_path / "delta.safetensors", tiny("bert")
    delta = make_delta("layernorm", backbone)
    save_delta(file, delta, delta.initial() + 1)
    if length > 1000:
        padded(file, length)
        assert torch.equal(load_delta(file, backbone)[1], delta.initial() + 1)
    write_tensors(file, {"x": torch.ones(2)}, {})
    padded(file, length)
    assert file.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
    assert torch.equal(read_tensors(file)[0]["x"], torch.ones(2))
    file.write_bytes(file.read_bytes()[:-1])  # damaged, and no pickle for that
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        read_tensors(file)
    checkpoint = Checkpoint(tmp_path / "c.safetensors", {"a": 1})
    checkpoint.save({"x": torch.ones(2)}, {})
    padded(checkpoint.path, length)
    assert checkpoint.load({}) is not None
    save_file({"x": torch.ones(2)}, file)
    padded(file, length)
    assert torch.equal(_read_weights([file])["x"], torch.ones(2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_delta_that_is_not_finite_is_refused(tmp_path, value):
    file = tmp_path / "delta.safetensors"
    delta, values = saved(file)
    values[3] = value
    save_delta(file, delta, values)
    with pytest.raises(ValueError, match="δ is not finite; its training diverged"):
        load_delta(file, tiny("bert"))


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": None},
        {"backbone": []},
        {"backbone": {}},
        {"specification": None},
        {"specification": {}},
        {"specification": {"delta": ["lora"]}},
        {"specification": {"delta": "lora", "r": "x"}},
        {"specification": {"delta": "lora", "r": 10**30}},
        {"specification": {"delta": "combined", "deltas": 3}},
        {"format": None},
    ],
)
def test_a_note_that_says_nothing_is_refused(tmp_path, change):
    file = tmp_path / "delta.safetensors"
    saved(file)
    tensors, note = read_tensors(file)
    write_tensors(file, tensors, {**note, **change})
    with pytest.raises(ValueError, match=r"^.") as caught:
        load_delta(file, tiny("bert"))
    assert "\n" not in str(caught.value)


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="is no plain file"):
            load_delta(path, tiny("bert"))
