"""The ladder: its formula, its count, and that nothing goes back into the backbone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny

from deltatheory import autodiff
from deltatheory.backbones import Edit
from deltatheory.deltas.adapter import Adapter
from deltatheory.deltas.ladder import LadderSide

TEXTS = ["a b c d", "e f", "g h i"]
FAMILIES = ["bert", "roberta", "gpt2", "llama"]
H, BLOCKS = 16, 2


def made(family="bert", **options):
    backbone = tiny(family, dtype=torch.float64)
    delta = LadderSide(backbone, **options)
    generator = torch.Generator().manual_seed(3)
    point = 0.3 * torch.randn(delta.size, generator=generator, dtype=torch.float64)
    return backbone, delta, point, backbone.encode(TEXTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_state_is_the_formula(family):
    backbone, delta, point, batch = made(family, width=3, seed=5)
    generator = torch.Generator().manual_seed(5)
    down, dense = [], [None]
    for t in range(BLOCKS + 1):
        down.append(torch.randn(3, H, generator=generator).double() / 4)
        if t:
            dense.append(torch.randn(3, 3, generator=generator).double() / 3**0.5)
    p = delta.coordinates.split(point)
    x = backbone.embed(batch)
    s = x @ (down[0] + p["0.D"]).T
    for t in range(1, BLOCKS + 1):
        x = backbone.step(t - 1, x, batch)
        mu = 1 / (1 + torch.exp(-p[f"{t}.mu"]))
        m = mu * x @ (down[t] + p[f"{t}.D"]).T + (1 - mu) * s
        s = m + F.gelu(m @ (dense[t] + p[f"{t}.W"]).T + p[f"{t}.b"])
    expected = backbone.readout(x + s @ p["U"].T)
    edit = delta.edit(point)
    # RMSNorm and rotary code up-cast to float32 inside.
    first = backbone.hidden_states(batch, edit)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-5)
    assert torch.equal(backbone.hidden_states(batch, edit), first)


def test_the_count():
    _, delta, _, _ = made(width=3)
    assert delta.size == (BLOCKS + 1) * 3 * H + BLOCKS * (3 * 3 + 3 + 1) + H * 3


def gradients(backbone, batch, edit):
    parameters = dict(backbone.model.named_parameters())
    for p in parameters.values():
        p.requires_grad_()
    try:
        hidden = backbone.hidden_states(batch, edit)
        w = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0), dtype=hidden.dtype)
        found = torch.autograd.grad((w * hidden).sum(), list(parameters.values()), allow_unused=True)
    finally:
        for p in parameters.values():
            p.requires_grad_(False)
    return {n: g for n, g in zip(parameters, found, strict=True) if g is not None}


def test_no_gradient_comes_back_through_the_taps():
    """A sum behind BERT's last norm changes no weight's gradient, unless by a tap."""
    backbone, delta, point, batch = made()
    frozen = gradients(backbone, batch, Edit())
    with_ladder = gradients(backbone, batch, delta.edit(point))
    assert frozen.keys() == with_ladder.keys()
    assert all(torch.equal(with_ladder[n], g) for n, g in frozen.items())
    last = backbone.layers[-1]
    name = next(n for n, m in backbone.model.named_modules() if m is last)
    open_tap = Edit(outputs={name: lambda _, x: x + torch.tanh(x)})
    assert any(not torch.allclose(g, frozen[n]) for n, g in gradients(backbone, batch, open_tap).items())


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("family", FAMILIES)
def test_no_backward_pass_runs_through_a_block(family):
    backbone, ladder, _, batch = made(family)

    def calls(delta):
        counted = []
        hooks = [
            m.register_full_backward_pre_hook(lambda *_: counted.append(1))
            for layer in backbone.layers
            for m in layer.modules()
            if isinstance(getattr(m, "weight", None), torch.Tensor)
        ]
        leaf = delta.initial().add(0.1).requires_grad_()
        (gradient,) = torch.autograd.grad(backbone.pooled(batch, delta.edit(leaf)).sin().sum(), leaf)
        for hook in hooks:
            hook.remove()
        assert gradient.abs().max() > 0
        return len(counted)

    assert calls(ladder) == 0
    assert calls(Adapter(backbone)) > 0


def test_the_jacobian_at_zero_is_that_of_the_up_projection():
    """At δ = 0 only U moves the output; J is exact although the taps are detached."""
    backbone, delta, _, batch = made(width=2)
    zero = delta.initial()

    def f(x):
        return backbone.pooled(batch, delta.edit(x))

    rows = torch.cat(list(autodiff.jacobian_rows(f, zero, chunk=4)))
    pieces = delta.coordinates.split(rows.abs().sum(0))
    assert (pieces.pop("U") > 0).all()
    assert all((x == 0).all() for x in pieces.values())


def test_the_width_is_checked():
    with pytest.raises(ValueError, match="width=0: must be at least 1"):
        LadderSide(tiny("bert"), width=0)
