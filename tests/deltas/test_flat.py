from __future__ import annotations

import pytest
import torch
from torch import nn

from deltatheory.deltas.flat import flatten_parameters


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
    return Tied()


TOKENS = torch.tensor([0, 3, 3])


def test_flattening_changes_nothing_and_counts_tied_weights_once(model):
    before = model(TOKENS).detach()
    flat = flatten_parameters(model)
    torch.testing.assert_close(model(TOKENS).detach(), before)  # the weights lie elsewhere
    assert flat.theta.shape == (5 * 3 + 3 * 3 + 3,)
    assert flat.names == ["embedding.weight", "middle.weight", "middle.bias"]
    assert flat.segments[-1] == ("middle.bias", 24, 27, torch.Size([3]))


def test_in_place_write_reaches_the_model_and_keeps_the_tie(model):
    flat = flatten_parameters(model)
    matrix, z = torch.randn(flat.theta.numel(), 2), torch.randn(2)
    torch.mv(matrix, z, out=flat.theta)
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight.flatten(), flat.theta[:15])
    torch.testing.assert_close(flat.theta, matrix @ z)
    pieces = flat.split(matrix @ z)
    expected = torch.func.functional_call(Tied(), pieces, (TOKENS,))
    torch.testing.assert_close(model(TOKENS).detach(), expected.detach())


def test_gradient_is_one_vector_that_accumulates_and_zeroes(model):
    reference = Tied()
    reference.load_state_dict(model.state_dict())
    reference(TOKENS).square().sum().backward()
    expected = torch.cat([p.grad.flatten() for p in reference.parameters()])
    flat = flatten_parameters(model)
    for times in (1, 2):
        model(TOKENS).square().sum().backward()
        torch.testing.assert_close(flat.gradient, times * expected)
    flat.zero_gradient()
    assert flat.gradient.abs().max() == 0
    model(TOKENS).square().sum().backward()
    torch.testing.assert_close(flat.gradient, expected)


def test_a_lost_gradient_is_refused_not_read_as_zero(model):
    flat = flatten_parameters(model)
    model.zero_grad()
    model(TOKENS).sum().backward()
    with pytest.raises(RuntimeError, match="zero_gradient"):
        _ = flat.gradient
    flat.zero_gradient()
    model(TOKENS).sum().backward()
    assert flat.gradient.abs().max() > 0


def test_a_moved_parameter_is_refused(model):
    flat = flatten_parameters(model)
    model.double()
    with pytest.raises(RuntimeError, match="has left theta"):
        _ = flat.gradient


def test_chosen_names_keep_their_order_and_leave_the_rest_frozen(model):
    model.requires_grad_(False)
    flat = flatten_parameters(model, ["middle.bias", "head.weight"])
    assert flat.names == ["middle.bias", "head.weight"]
    assert not model.middle.weight.requires_grad
    assert model.embedding.weight.requires_grad
    assert [p.shape for p in flat.split(flat.theta).values()] == [(3,), (5, 3)]


def test_split_is_differentiable(model):
    flat = flatten_parameters(model)
    vector = flat.theta.clone().requires_grad_()
    sum((i + 1) * piece.sum() for i, piece in enumerate(flat.split(vector).values())).backward()
    assert vector.grad.unique().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["middle.wieght"], "nearest: middle.weight"), ([], "at least one"), (["nope"], "not in the model")],
)
def test_bad_names_are_refused(model, names, message):
    with pytest.raises(ValueError, match=message):
        flatten_parameters(model, names)


def test_mixed_types_and_wrong_shapes_are_refused(model):
    with pytest.raises(ValueError, match=r"allowed is \(27,\)"):
        flatten_parameters(model).split(torch.zeros(26))
    model.middle.double()
    with pytest.raises(ValueError, match="mixed"):
        flatten_parameters(model)
