"""Lipschitz certificates of one-hidden-layer blocks (X3): diagonal multipliers by descent, then rounded.

The set-up is LipSDP-Neuron's (Fazlyab et al., 2019) in centred form: a slope in [c - r, c + r] is c + r s
with |s| <= 1, and the hidden units are eliminated by a Schur complement, so the LMI has the size
inputs + outputs and 1536 units cost little. Diagonal multipliers are sound;
LipSDP's `network` multipliers are not.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from proofs_check.prove import Found

UNIT = 1 << 16  # multipliers are integers / UNIT
# GELU's slopes, from the certificate of T48 and f'(-x) = 1 - f'(x).
GELU_SLOPES = (1 - Fraction(1128904145187, 10**12), Fraction(1128904145187, 10**12))


def certificate_data(
    name: str,
    inner: np.ndarray,
    outer: np.ndarray,
    scale: Fraction,
    slopes: tuple[Fraction, Fraction],
    bound: Fraction | None = None,
    witness: tuple[list[int], list[int]] | None = None,
    multipliers: np.ndarray | None = None,
    unit: int = UNIT,
) -> dict:
    """Write it in integers.

    Args:
        name: of the block, a key of `proofs_check.instances.BLOCKS`.
        inner: W0 / scale, integers, units x inputs.
        outer: W1 / scale, integers, outputs x units.
        scale: what an integer stands for.
        slopes: the least and the greatest slope of the activation.
        bound: L^2; by default a little above what the multipliers give.
        witness: slopes and a direction that attain the bound, if it is claimed to be tight.
        multipliers: positive numbers, by default those of `descend`.
        unit: the multipliers are rounded to multiples of 1 / unit.

    """
    w0, w1 = inner * float(scale), outer * float(scale)
    low, high = map(float, slopes)
    t = descend(w0, w1, low, high) if multipliers is None else multipliers
    units = np.maximum(np.rint(t * unit), 1).astype(int)
    reciprocals = [-(-unit * unit // int(k)) for k in units]
    if bound is None:
        value = squared_bound(w0, w1, units / unit, np.array(reciprocals) / unit, low, high)
        bound = Fraction(int(value * 10**6 * (1 + 1e-6)) + 1, 10**6)
    pattern, direction = witness or ([0] * len(inner), [0] * inner.shape[1])
    return {
        "name": name,
        "inner": inner.astype(int).tolist(),
        "outer": outer.astype(int).tolist(),
        "scale": _pair(scale),
        "slopes": [_pair(s) for s in slopes],
        "bound": _pair(bound),
        "tight": int(witness is not None),
        "unit": [1, unit],
        "multipliers": units.tolist(),
        "reciprocals": reciprocals,
        "witness": {
            "slopes": [_pair(s) for s in (pattern if witness else [slopes[0]] * len(inner))],
            "direction": [_pair(x) for x in direction],
        },
    }


def squared_bound(
    w0: np.ndarray, w1: np.ndarray, t: np.ndarray, reciprocals: np.ndarray, low: float, high: float
) -> float:
    """Return the least L^2 that the multipliers certify; infinite if they certify none."""
    c, r = (low + high) / 2, (high - low) / 2
    rest = np.eye(len(w1)) - r**2 * (w1 * reciprocals) @ w1.T
    if np.linalg.eigvalsh(rest)[0] <= 0:
        return np.inf
    through = c * w1 @ w0
    return float(np.linalg.eigvalsh((w0.T * t) @ w0 + through.T @ np.linalg.solve(rest, through))[-1])


def descend(
    w0: np.ndarray, w1: np.ndarray, low: float, high: float, power: int = 16, steps: int = 300
) -> np.ndarray:
    """Minimize the L^2 of `squared_bound` over t > 0 by L-BFGS, with a p-norm for the greatest eigenvalue."""
    import torch
    from scipy.optimize import minimize

    inner, outer = torch.tensor(w0, dtype=torch.float64), torch.tensor(w1, dtype=torch.float64)
    c, r = (low + high) / 2, (high - low) / 2
    through, eye = c * outer @ inner, torch.eye(len(w1), dtype=torch.float64)

    def objective(logs: np.ndarray) -> tuple[float, np.ndarray]:
        u = torch.tensor(logs, requires_grad=True)
        t = u.exp()
        rest = eye - r**2 * (outer / t) @ outer.T
        if torch.linalg.eigvalsh(rest.detach())[0] <= 1e-4:
            return 1e12, np.zeros_like(logs)
        m = (inner.T * t) @ inner + through.T @ torch.linalg.solve(rest, through)
        values = torch.linalg.eigvalsh(m)
        top = values[-1].detach()
        loss = top.log() + ((values / top) ** power).sum().log() / power
        (gradient,) = torch.autograd.grad(loss, u)
        return loss.item(), gradient.numpy()

    # Start where both parts of the bound weigh the same for each unit, scaled into the feasible set.
    start = np.linalg.norm(w1, axis=0) / np.maximum(np.linalg.norm(w0, axis=1), 1e-6)
    start *= 2 * r**2 * np.linalg.eigvalsh((w1 / start) @ w1.T)[-1]
    result = minimize(objective, np.log(start), jac=True, method="L-BFGS-B", options={"maxiter": steps})
    return np.exp(result.x)


def block_of_minilm(layer: int, inputs: int, outputs: int, bits: int = 9) -> dict:
    """Certify the MLP block of a MiniLM layer between its leading inputs and outputs, with all its units.

    Inputs are the leading right singular vectors of W0, outputs the leading left ones of W1; the weights
    W0 U and V'W1 are rounded to multiples of 2^-bits, and the certificate is about the rounded block.
    """
    w0, w1 = _mlp_weights(layer)
    inner = np.rint(w0 @ np.linalg.svd(w0, full_matrices=False)[2][:inputs].T * 2**bits)
    outer = np.rint(np.linalg.svd(w1, full_matrices=False)[0][:, :outputs].T @ w1 * 2**bits)
    return certificate_data(f"minilm_layer_{layer}", inner, outer, Fraction(1, 2**bits), GELU_SLOPES)


def _mlp_weights(layer: int) -> tuple[np.ndarray, np.ndarray]:
    from deltatheory.backbones import load_backbone

    weights = load_backbone("minilm").model.state_dict()
    inner, outer = (
        weights[f"encoder.layer.{layer}.{name}.dense.weight"].double().numpy()
        for name in ("intermediate", "output")
    )
    return inner, outer


def two_units() -> dict:
    """Certify the ReLU network on which LipSDP's `network` mode answers 2: its constant is sqrt 32."""
    inner, outer = np.array([[-2, -2], [-2, -1]]), np.array([[-2, 2]])
    relu, t, witness = (Fraction(0), Fraction(1)), np.array([2, 8 / 3]), ([1, 0], [1, 1])
    return certificate_data("two_units", inner, outer, Fraction(1), relu, Fraction(32), witness, t, unit=24)


def blocks() -> Found:
    """X3: the network that LipSDP's `network` mode gets wrong, and two MLP blocks of MiniLM."""
    yield "two-units", "lipschitz", [two_units()]
    for layer in (0, 5):
        yield f"minilm-layer-{layer}", "lipschitz", [block_of_minilm(layer, 8, 8)]


def _pair(x: Fraction | int) -> list[int]:
    return [Fraction(x).numerator, Fraction(x).denominator]
