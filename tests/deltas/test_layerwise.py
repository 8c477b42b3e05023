from __future__ import annotations

import pytest
import torch
from tiny_models import tiny

from deltatheory.deltas import LayerwiseSubspace, Subspace


@pytest.mark.parametrize(("scope", "layers"), [("blocks", 2), ("all", 3)])
def test_d_counts_the_scales(scope, layers):
    delta = LayerwiseSubspace(tiny("bert"), d=10, scope=scope)
    assert (delta.size, delta.layers, delta.projection.d) == (10, layers, 10 - layers)
    assert delta.initial().shape == (10,)


@pytest.mark.parametrize(("scope", "layers"), [("blocks", 2), ("all", 3)])
def test_as_few_coordinates_as_layers_are_refused(scope, layers):
    """The published code takes the scales off the coordinates, and then fails on d it reports itself."""
    with pytest.raises(ValueError, match=f"d={layers}: must be above {layers}"):
        LayerwiseSubspace(tiny("bert"), d=layers, scope=scope)
    assert LayerwiseSubspace(tiny("bert"), d=layers + 1, scope=scope).size == layers + 1


def test_a_scale_moves_its_layer_alone():
    backbone = tiny("bert")
    delta = LayerwiseSubspace(backbone, d=10, scope="all")
    z = torch.randn(7, generator=torch.Generator().manual_seed(0))
    plain = Subspace(backbone, d=7, scope="all")
    theta0 = plain.parameters(torch.zeros(7))
    change = {name: p - theta0[name] for name, p in plain.parameters(z).items()}
    scales = torch.tensor([0.5, -1.0, 2.0])
    for name, p in delta.parameters(torch.cat([scales, z])).items():
        layer = 0 if ".0." in name else 1 if ".1." in name else 2
        torch.testing.assert_close(p - theta0[name], (1 + scales[layer]) * change[name], rtol=0, atol=1e-6)


def test_without_scales_it_is_the_plain_subspace():
    backbone = tiny("gpt2")
    delta, plain = LayerwiseSubspace(backbone, d=10, seed=4), Subspace(backbone, d=8, seed=4)
    z = torch.randn(8, generator=torch.Generator().manual_seed(0))
    expected = plain.parameters(z)
    for name, p in delta.parameters(torch.cat([torch.zeros(2), z])).items():
        torch.testing.assert_close(p, expected[name], rtol=0, atol=1e-7)
