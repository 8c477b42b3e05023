"""Laws of every loss: its residual and curvature are its derivatives, and its margin says all of it."""

import pytest
import torch

from deltatheory import autodiff
from deltatheory.problems.losses import LOSSES, Loss, make_loss


@pytest.fixture(params=LOSSES)
def loss(request) -> Loss:
    return make_loss(request.param)


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return outputs, torch.tensor([0, 1, 2, 3, 4, 2])


def margins_of(loss: Loss, drawn) -> torch.Tensor:
    if type(loss).margin is Loss.margin:
        with pytest.raises(ValueError, match=f"loss={loss.name!r}: is no function of one margin"):
            loss.margin(*drawn)
        pytest.skip("this loss has no margin")
    return loss.margin(*drawn)


def test_the_residual_is_the_way_downhill(loss, drawn):
    outputs, answers = drawn
    gradient = autodiff.grad(lambda z: loss.total(z, answers), outputs)
    torch.testing.assert_close(loss.residual(outputs, answers), -gradient, rtol=1e-12, atol=1e-12)


def test_the_residual_agrees_with_differences(loss, drawn):
    outputs, answers = drawn
    step = torch.zeros_like(outputs)
    step[2, 3] = 1e-5
    change = loss.total(outputs + step, answers) - loss.total(outputs - step, answers)
    assert float(change) / 2e-5 == pytest.approx(-float(loss.residual(outputs, answers)[2, 3]), abs=1e-8)


def test_the_curvature_is_the_change_of_the_gradient_and_convex(loss, drawn):
    outputs, answers = drawn
    change = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ahead, behind = (loss.residual(outputs + sign * 1e-5 * change, answers) for sign in (1, -1))
    product = loss.curvature(outputs, change)
    torch.testing.assert_close(product, (behind - ahead) / 2e-5, rtol=1e-6, atol=1e-8)
    assert ((product * change).sum(-1) >= -1e-12).all()


def test_means_and_totals_are_those_of_the_values(loss, drawn):
    outputs, answers = drawn
    values = loss.values(outputs, answers)
    assert values.shape == answers.shape
    torch.testing.assert_close(loss.mean(outputs, answers), values.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(loss.total(outputs, answers), values.sum(), rtol=1e-12, atol=0)
    several = loss.values(outputs.view(2, 3, 5), answers.view(2, 3))
    torch.testing.assert_close(several.flatten(), values, rtol=1e-12, atol=0)


def test_the_margin_orders_answers_as_the_loss_does(loss, drawn):
    outputs, answers = drawn
    margins, values = margins_of(loss, drawn), loss.values(outputs, answers)
    assert margins.argsort(descending=True).tolist() == values.argsort().tolist()


def test_the_loss_is_a_convex_function_of_its_margin_with_the_derivatives_given(loss, drawn):
    outputs, answers = drawn
    margins = margins_of(loss, drawn)
    value, force, curvature = loss.of_margin(margins)
    torch.testing.assert_close(value, loss.values(outputs, answers), rtol=1e-12, atol=1e-14)
    (above, force_above, _), (below, force_below, _) = (loss.of_margin(margins + h) for h in (1e-5, -1e-5))
    torch.testing.assert_close(force, (below - above) / 2e-5, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(curvature, (force_below - force_above) / 2e-5, rtol=1e-8, atol=1e-10)
    assert (curvature >= 0).all()
    assert loss.of_margin(torch.tensor([40.0], dtype=torch.float64))[0] > 0  # not rounded away


def test_an_unknown_loss_is_named_with_what_there_is():
    with pytest.raises(ValueError, match="loss='hinge': allowed are 'cross-entropy'"):
        make_loss("hinge")


def test_the_best_scale_is_where_the_loss_is_least_and_confidence_does_not_count(loss, drawn):
    outputs, answers = drawn
    best = loss.best_scale(outputs, answers)
    least = loss.mean(best * outputs, answers)
    assert all(
        loss.mean(s * outputs, answers) >= least for s in (0.0, 0.5 * best, 0.99 * best, 1.01 * best, 9.0)
    )
    assert loss.best_scale(100 * outputs, answers) == pytest.approx(best / 100)
    sure = loss.mean(100 * outputs, answers)
    assert sure > loss.mean(0 * outputs, answers) >= least  # over-trained nets: right as often, far too sure


def test_outputs_that_say_nothing_or_the_opposite_have_scale_zero_and_right_ones_a_finite_one(loss):
    answers = torch.tensor([0, 1])
    right = torch.eye(2, dtype=torch.float64)
    assert loss.best_scale(torch.zeros(2, 2), answers) == 0
    assert loss.best_scale(-right, answers) == 0
    scale = loss.best_scale(right, answers)
    assert 0 < scale < float("inf")
    assert loss.mean(scale * right, answers) < 1e-3
