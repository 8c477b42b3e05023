"""`deltatheory explain`."""

import json
import re

import torch
from command_line import run
from tiny_models import tiny

import deltatheory.adapters.adapter
from deltatheory.deltas import make_delta
from deltatheory.deltas.files import save_delta


def test_an_adapter_is_explained_in_a_table_and_left_smaller(monkeypatch, tmp_path):
    backbone = tiny("bert")
    delta = make_delta("lora", backbone, r=3)
    point = torch.randn(delta.size, generator=torch.Generator().manual_seed(0))
    save_delta(tmp_path / "delta.safetensors", delta, point)
    monkeypatch.setattr(deltatheory.adapters.adapter, "load_backbone", lambda _: backbone)
    out = tmp_path / "out"
    result = run("explain", str(tmp_path / "delta.safetensors"), "--model", "m", "--out", out)
    assert result.exit_code == 0, result.output
    assert re.search(r"layer.0.attention.self.query +[0-9.]+ +3 +3 +3", result.output)
    assert json.loads((out / "explanation.json").read_text())["total_rank"] == 12
    assert (out / "truncated" / "adapter_model.safetensors").exists()
    refused = run("explain", str(tmp_path / "nothing"), "--out", out)
    assert refused.exit_code == 2
    assert "Traceback" not in refused.output
