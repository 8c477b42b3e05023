"""A test of a problem's derivatives on random directions, before anything is built on them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.autodiff import DerivativeError, Function, hvp, jvp, value_and_grad, vjp

__all__ = ["SelfCheck", "require", "self_check"]

_ADJOINT = (
    "forward and reverse mode disagree: set padding_idx=None in every embedding and switch off dropout "
    "(prepare(model) does both), and look for a custom autograd.Function or a hook that changes gradients"
)
_DIFFERENCE = (
    "the derivative is not that of the function: remove detach(), no_grad() and .item() from it, make it "
    "pure, and switch off dropout (prepare(model)); for a function with kinks or low-precision parts give a "
    "larger tolerance"
)


@dataclass(frozen=True)
class SelfCheck:
    """Relative errors of three identities that right derivatives satisfy, and what to do if they are not met.

    Attributes:
        symmetry: of u·Hv = v·Hu for the loss; 0 in half precision, where it is not tested.
        finite_difference: of Jv and of g·v against central differences, at the best of a few steps; of g·v
            alone in half precision.
        adjoint: of ⟨Jv, w⟩ = ⟨v, Jᵀw⟩ for the outputs, with a difference for Jv in half precision.
        tolerance: the largest error that passes.
        passed: all three are within the tolerance.
        remedy: "" when passed.
        seconds: time taken.
    """

    symmetry: float
    finite_difference: float
    adjoint: float
    tolerance: float
    passed: bool
    remedy: str
    seconds: float


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).detach().sum(dtype=torch.float64))


def _norm(a: Tensor) -> float:
    return float(torch.linalg.vector_norm(a, dtype=torch.float64))


def _ratio(error: float, scale: float) -> float:
    """0/0 is agreement; NaN stays NaN and fails every comparison with a tolerance."""
    return 0.0 if error == 0 else error / scale if scale else math.inf


def _difference_error(
    f: Function, x: Tensor, v: Tensor, value: Tensor, derivative: Tensor, scale: float, tolerance: float
) -> float:
    """Relative error of `derivative` against (f(x + hv) - f(x - hv)) / 2h, at the best step h.

    A wrong derivative agrees at no step, so taking the best one loses nothing: it only frees the test from
    guessing where rounding and curvature balance.
    """
    eps = torch.finfo(x.dtype).eps
    size = max(_norm(x), 1.0) / _norm(v)
    floor = math.sqrt(eps) * _norm(value) / size  # below this a derivative is rounding noise of f
    best = math.inf
    for factor in (1.0, 10.0, 0.1, 100.0, 0.01):
        h = factor * eps ** (1 / 3) * size
        change = (f(x + h * v) - f(x - h * v)) / (2 * h)
        best = min(best, _ratio(_norm(change - derivative), max(scale, _norm(change), floor)))
        if best <= tolerance / 10:
            break
    return best


def self_check(
    outputs_fn: Function,
    loss_fn: Function,
    x: Float[Tensor, " m"],
    *,
    seed: int = 0,
    tolerance: float | None = None,
    dtype: torch.dtype | None = None,
) -> SelfCheck:
    """Test the derivatives of a problem on random directions: symmetry, one finite difference, adjoint.

    With u, v ~ N(0, I), u·Hv is normal with standard deviation ‖Hv‖, so that, not ‖u‖‖Hv‖, is the scale of
    its error. About a dozen forward-equivalent passes when all is well.

    In half precision rounding hides second derivatives, and differences in random directions: there reverse
    mode alone is tested, ⟨v, Jᵀw⟩ and g·v against differences of ⟨f, w⟩ and of the loss, along a v that is
    half the gradient itself.

    Arguments:
        outputs_fn: x -> outputs of any shape, pure.
        loss_fn: x -> scalar, pure.
        x: where, m numbers.
        seed: of the directions.
        tolerance: largest relative error; by default 2e-3 in float64 (parts of many networks
            stay float32 inside), 1e-2 in float32, 0.3 below (where many blocks of roundings add up).
        dtype: in which the functions compute; by default that of x.

    >>> import torch
    >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> self_check(lambda x: x**2, lambda x: (x**4).sum(), x).passed
    True
    >>> self_check(lambda x: x.detach() * x, lambda x: (x**4).sum(), x).passed  # half of J is cut off
    False
    """
    began = time.perf_counter()
    if tolerance is None:
        tolerance = {torch.float64: 2e-3, torch.float32: 1e-2}.get(dtype or x.dtype, 0.3)
    x, number = x.detach(), torch.finfo(dtype or x.dtype)
    half = number.bits < 32
    try:
        if half:
            errors = _reverse_errors(outputs_fn, loss_fn, x, seed, tolerance, number.eps)
        else:
            errors = _errors(outputs_fn, loss_fn, x, seed, tolerance)
        agree = half or (errors[0] <= tolerance and errors[2] <= tolerance)
        remedy = _DIFFERENCE if agree else _ADJOINT
    except DerivativeError as error:
        errors, remedy = (math.inf, math.inf, math.inf), str(error)
    passed = all(error <= tolerance for error in errors)
    seconds = time.perf_counter() - began
    return SelfCheck(*errors, tolerance, passed, "" if passed else remedy, seconds)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)


def _errors(
    outputs_fn: Function, loss_fn: Function, x: Tensor, seed: int, tolerance: float
) -> tuple[float, float, float]:
    """Return the errors of symmetry, finite differences and adjoint."""
    generator = torch.Generator().manual_seed(seed)
    u, v = _normal(x, generator), _normal(x, generator)
    outputs, jv = jvp(outputs_fn, x, v)
    w = _normal(outputs, generator)
    jtw = vjp(outputs_fn, x)[1](w)
    adjoint = _ratio(abs(_dot(jv, w) - _dot(v, jtw)), max(_norm(jv), _norm(jtw)))

    hu, hv = hvp(loss_fn, x, u), hvp(loss_fn, x, v)
    symmetry = _ratio(abs(_dot(u, hv) - _dot(v, hu)), max(_norm(hu), _norm(hv)))

    loss, gradient = value_and_grad(loss_fn, x)
    slope = torch.as_tensor(_dot(gradient, v), dtype=loss.dtype, device=loss.device)
    difference = max(
        _difference_error(outputs_fn, x, v, outputs, jv, _norm(jv), tolerance),
        _difference_error(loss_fn, x, v, loss, slope, _norm(gradient), tolerance),
        key=lambda error: math.inf if math.isnan(error) else error,
    )
    return symmetry, difference, adjoint


def _reverse_errors(
    outputs_fn: Function, loss_fn: Function, x: Tensor, seed: int, tolerance: float, eps: float
) -> tuple[float, float, float]:
    """Return 0, and the errors of g·v and of ⟨v, Jᵀw⟩ against differences."""
    generator = torch.Generator().manual_seed(seed)
    w = _normal(outputs_fn(x), generator)
    difference, adjoint = (
        _slope_error(f, x, _normal(x, generator), tolerance, eps)
        for f in (loss_fn, lambda y: (outputs_fn(y) * w).sum())
    )
    return 0.0, difference, adjoint


def _slope_error(f: Function, x: Tensor, random: Tensor, tolerance: float, eps: float) -> float:
    """Relative error of the gradient of a scalar function, along itself and a random direction.

    From large steps to small ones: where a network is linear is not known, and a small step is rounded away.
    """
    value, gradient = value_and_grad(f, x)
    v, size = random / _norm(random), _norm(gradient)
    v = v + gradient / size if size else v
    slope, scale, best = _dot(gradient, v), max(_norm(x), 1.0), math.inf
    floor = math.sqrt(eps) * abs(float(value)) / scale
    for factor in (1.2, 0.6, 0.3, 0.15, 0.075):
        h = factor * eps ** (1 / 3) * scale
        change = float(f(x + h * v) - f(x - h * v)) / (2 * h)
        best = min(best, _ratio(abs(change - slope), max(abs(slope), abs(change), floor)))
        if best <= tolerance / 2:
            break
    return best


def require(check: SelfCheck) -> None:
    """Refuse to go on with derivatives that failed `self_check`.

    Raises:
        DerivativeError: naming the tests that failed, by how much, and the remedy.
    """
    if check.passed:
        return
    errors = {
        "symmetry": check.symmetry,
        "finite difference": check.finite_difference,
        "adjoint": check.adjoint,
    }
    failed = [f"{name} off by {e:.2g}" for name, e in errors.items() if not e <= check.tolerance]
    raise DerivativeError(f"{', '.join(failed)} (tolerance {check.tolerance:.2g}): {check.remedy}")
