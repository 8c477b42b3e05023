from __future__ import annotations

import pytest
import torch
from tiny_models import tiny

from deltatheory.deltas import LoRA


def test_the_merge_formula():
    backbone = tiny("bert")
    delta = LoRA(backbone, r=3, alpha=6.0, targets=["query"], seed=1)
    assert delta.targets == tuple(f"encoder.layer.{i}.attention.self.query" for i in range(2))
    assert delta.size == 2 * 3 * (16 + 16)
    point = torch.randn(delta.size, generator=torch.Generator().manual_seed(0))
    b_only = point.clone()
    half = 3 * 16
    b_only[:half] = 0  # δ_A of the first target
    name = f"{delta.targets[0]}.weight"
    w0 = backbone.model.get_parameter(name)
    a0 = torch.randn(3, 16, generator=torch.Generator().manual_seed(1)) / 4
    b = point[half : 2 * half].view(16, 3)
    torch.testing.assert_close(delta.parameters(b_only)[name], w0 + 2.0 * b @ a0)
    a = a0 + point[:half].view(3, 16)
    torch.testing.assert_close(delta.parameters(point)[name], w0 + 2.0 * b @ a)


def test_the_matrix_of_conv1d_lies_the_other_way_round():
    backbone = tiny("gpt2")
    delta = LoRA(backbone, r=2)
    name = "h.0.attn.c_attn.weight"
    assert delta.targets[0] == name.removesuffix(".weight")
    w0 = backbone.model.get_parameter(name)
    assert w0.shape == (16, 48)  # (in, out)
    assert delta.size == 2 * 2 * (16 + 48)
    point = torch.zeros(delta.size)
    b = torch.randn(48, 2, generator=torch.Generator().manual_seed(0))
    point[2 * 16 : 2 * (16 + 48)] = b.flatten()
    a0 = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)) / 4
    torch.testing.assert_close(delta.parameters(point)[name] - w0, (b @ a0).T, rtol=0, atol=1e-6)


def test_the_default_targets_are_query_and_value():
    last = {name.rsplit(".", 1)[-1] for name in LoRA(tiny("bert"), r=1).targets}
    assert last == {"query", "value"}
    assert {name.rsplit(".", 1)[-1] for name in LoRA(tiny("llama"), r=1).targets} == {"q_proj", "v_proj"}


def test_each_entry_must_match():
    """A partial match that goes unsaid trains another model than the one meant (peft#3658)."""
    message = r"'q_proj', which matches no linear module; there are .*'query'.*\(1 of 2 entries match none\)"
    with pytest.raises(ValueError, match=message):
        LoRA(tiny("bert"), targets=["query", "q_proj"])
    with pytest.raises(ValueError, match="give at least one"):
        LoRA(tiny("bert"), targets=[])


@pytest.mark.parametrize("r", [0, 17])
def test_the_rank_is_checked(r):
    with pytest.raises(ValueError, match=rf"r={r}: must lie in 1..16, the smaller side of 'encoder"):
        LoRA(tiny("bert"), r=r)


def test_dotted_ends_choose_one_place():
    delta = LoRA(tiny("bert"), r=1, targets=["layer.1.attention.self.value"])
    assert delta.targets == ("encoder.layer.1.attention.self.value",)
