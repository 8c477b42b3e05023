"""A model at θ₀ + change, formed module by module: the same function and gradient, and θ₀ untouched."""

from __future__ import annotations

import pytest
import torch
from memory import peak
from tiny_models import TINY, tiny
from torch import nn
from torch.func import functional_call

from deltatheory.deltas.moved import MovedParameters, Movement

TOKENS = torch.tensor([0, 3, 3])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.middle = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.middle(self.embedding(tokens))))


@pytest.fixture
def model() -> Tied:
    torch.manual_seed(0)
    return Tied().requires_grad_(False)


def moved_by(vector: torch.Tensor, moved: MovedParameters) -> tuple[Movement, torch.Tensor]:
    """The movement by a vector of R^D, and what its gradients are added to."""
    gradient = torch.zeros_like(vector)
    segments = [slice(start, stop) for _, start, stop, _ in moved.segments]

    def collect(number: int, part: torch.Tensor) -> None:
        gradient[segments[number]] += part.flatten()

    return Movement(lambda number, base: base + vector[segments[number]], collect), gradient


def all_of(*roots: nn.Module) -> MovedParameters:
    return MovedParameters(roots, dict(roots[0].named_parameters()))


def pure(model: nn.Module, moved: MovedParameters, change: torch.Tensor) -> torch.Tensor:
    return functional_call(model, moved.plus(moved.split(change)), (TOKENS,))


@pytest.mark.parametrize("kept", [0, 1 << 26])
def test_tied_weights_count_once_and_move_in_all_their_places(monkeypatch, model, kept):
    monkeypatch.setattr("deltatheory.deltas.moved.KEPT", kept)
    before = {name: p.clone() for name, p in model.named_parameters()}
    moved = all_of(model)
    assert moved.names == ["embedding.weight", "middle.weight", "middle.bias"]
    assert moved.segments[-1] == ("middle.bias", 24, 27, torch.Size([3]))
    leaf = torch.randn(moved.size).requires_grad_()
    expected = pure(model, moved, leaf)
    expected.square().sum().backward()
    movement, gradient = moved_by(leaf.detach(), moved)
    moved.move(movement)
    out = model(TOKENS)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)
    assert model.head.weight is model.embedding.weight
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    moved.rest()
    assert torch.equal(model(TOKENS), pure(model, moved, torch.zeros(moved.size)))


@pytest.mark.parametrize("family", TINY)
def test_every_family_runs_at_the_moved_parameters(monkeypatch, family):
    monkeypatch.setattr("deltatheory.deltas.moved.KEPT", 0)  # as large models do
    backbone = tiny(family, dtype=torch.float64)
    batch = backbone.encode(["a b c", "d e"])
    moved = all_of(backbone.model)
    leaf = (0.1 * torch.randn(moved.size, dtype=torch.float64)).requires_grad_()
    expected = backbone.pooled(batch, moved.plus(moved.split(leaf)))
    (wanted,) = torch.autograd.grad(expected.square().sum(), leaf)
    movement, gradient = moved_by(leaf.detach(), moved)
    moved.move(movement)
    found = backbone.pooled(batch)
    # a pass of another δ between the two does not matter, nor does what acts by then
    assert torch.equal(backbone.pooled(batch, moved.plus(moved.split(leaf))), expected)
    moved.rest()
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kept", [0, 1 << 26])
def test_gradients_add_up_over_backward_passes_of_one_graph(monkeypatch, model, kept):
    monkeypatch.setattr("deltatheory.deltas.moved.KEPT", kept)
    moved = all_of(model)
    leaf = torch.randn(moved.size).requires_grad_()
    (expected,) = torch.autograd.grad(pure(model, moved, leaf).square().sum(), leaf)
    movement, gradient = moved_by(leaf.detach(), moved)
    moved.move(movement)
    loss = model(TOKENS).square().sum()
    for times in (1, 2):
        loss.backward(retain_graph=times == 1)
        torch.testing.assert_close(gradient, times * expected)


def test_a_module_that_fails_gets_its_parameters_back(model):
    own = dict(model.named_parameters())
    moved = all_of(model)
    moved.move(moved_by(torch.ones(moved.size), moved)[0])
    with pytest.raises(RuntimeError, match="shape"):
        model.middle(torch.zeros(2, 7))
    assert all(p is own[name] for name, p in model.named_parameters())
    moved.move(moved_by(torch.zeros(moved.size), moved)[0])
    moved.rest()
    assert torch.equal(model(TOKENS), Tied.forward(model, TOKENS))


def test_split_is_differentiable_and_checked(model):
    moved = all_of(model)
    vector = torch.zeros(moved.size, requires_grad=True)
    sum((i + 1) * piece.sum() for i, piece in enumerate(moved.split(vector).values())).backward()
    assert vector.grad.unique().tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"allowed is \(27,\)"):
        moved.split(torch.zeros(26))


def test_a_change_too_small_for_half_precision_acts():
    """bfloat16 has 8 bits: 1 + 0.001 rounded to it is 1."""
    network = nn.Linear(1024, 1).requires_grad_(False).bfloat16()
    network.weight.copy_((-1.0) ** torch.arange(1024))
    network.bias.zero_()
    moved = MovedParameters([network], {"weight": network.weight})  # the bias stays what it is
    movement, gradient = moved_by(torch.full((1024,), 1e-3), moved)
    moved.move(movement)
    out = network(torch.ones(1, 1024, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert float(out.detach()) == pytest.approx(1.024, rel=1e-2)
    out.sum().backward()
    assert torch.equal(gradient, torch.ones(1024))
    assert network.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(("kept", "share"), [(0, (0.05, 0.2)), (1 << 26, (1.0, 1.2))])
def test_a_step_holds_one_modules_weights_at_a_time(monkeypatch, kept, share):
    """Flat copies of θ, θ₀ and the gradient were three times the weights; up to a size they are kept once."""
    monkeypatch.setattr("deltatheory.deltas.moved.KEPT", kept)
    network = nn.Sequential(*(nn.Linear(128, 128) for _ in range(32))).requires_grad_(False)
    moved = all_of(network)
    views = list(moved.split(torch.zeros(moved.size)).values())
    x = torch.randn(2, 128)

    def form(number: int, base: torch.Tensor) -> torch.Tensor:
        return base + views[number].flatten()

    def step() -> None:
        moved.move(Movement(form, lambda *_: None))
        network(x).sum().backward()

    step()
    least, most = share
    assert least < peak(step) / (4 * moved.size) < most


def test_what_modules_in_half_precision_get_is_kept_as_it_came(monkeypatch):
    """Each of them kept a copy in float32 of what all of them get."""
    monkeypatch.setattr("deltatheory.deltas.moved.KEPT", 0)
    network = nn.ModuleList([nn.Linear(32, 2) for _ in range(8)]).requires_grad_(False).bfloat16()
    moved, x = all_of(network), torch.randn(4096, 32).bfloat16()
    movement, gradient = moved_by(torch.randn(moved.size), moved)

    def step() -> None:
        moved.move(movement)
        sum(module(x).float().square().sum() for module in network).backward()

    assert peak(step) < 3 * 4 * x.numel()
    monkeypatch.setattr("deltatheory.deltas.moved.KEPT", 1 << 26)
    found = gradient.clone()
    gradient.zero_()
    step()
    assert torch.equal(found, gradient)
