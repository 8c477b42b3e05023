"""Finite-horizon linear-quadratic control by the Riccati recursion: time-varying, affine, batched, float64.

Everything is written in homogeneous coordinates: with (1, x, u) a stage's cost and dynamics are one symmetric
matrix and one matrix, the affine terms are their first row and column, and a step of the recursion is one
congruence and the elimination of the controls.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy import ndarray

from deltatheory._shapes import Bool, Float
from deltatheory.control.solvers.base import Status

__all__ = ["AffineTerms", "LQRSolution", "box_qp", "lqr", "recursion"]

_INDEFINITE = (
    "R + BᵀPB is not positive definite at t = {t}: the cost has no unique minimum there. Make R larger, or Q "
    "and the terminal weight positive semidefinite, or drop controls that move nothing and cost nothing"
)
_OVERFLOW = (
    "the value function is not finite at t = {t}: an unstable A over a long horizon overflows. Shorten the "
    "horizon, rescale the states, or check the matrices for entries that are far too large"
)


@dataclass(frozen=True, eq=False)
class LQRSolution:
    """The optimal feedback u_t = K_t x + k_t and the cost to go V_t(x) = ½ xᵀP_t x + p_tᵀx + s_t.

    Every array has a leading dimension of problems where the data had one. By completion of squares, for any
    controls, J = V_0(x_0) + ½ Σ (u_t - K_t x_t - k_t)ᵀ H_t (u_t - K_t x_t - k_t).

    Attributes:
        gains: K, (T, m, n).
        feedforward: k, (T, m).
        P: (T + 1, n, n).
        p: (T + 1, n).
        s: (T + 1).
        curvature: H_t = R_t + B_tᵀ P_{t+1} B_t, (T, m, m).
        status: CONVERGED, or ILL_CONDITIONED or DIVERGED; the worst over the problems. Then the numbers of
            the problems that failed are meaningless.
        remedy: what to do about it.
        failed: which problems failed: a bool, or one for each problem.
    """

    gains: ndarray
    feedforward: ndarray
    P: ndarray
    p: ndarray
    s: ndarray
    curvature: ndarray
    status: Status
    remedy: str
    failed: ndarray | bool
    _dynamics: ndarray

    def cost(self, x0: Any) -> Any:
        """Return the least cost from x0, V_0(x0): x0 is (n,), or (b, n) for b problems."""
        x = np.asarray(x0, dtype=np.float64)
        P, p, s = (np.moveaxis(a, self.gains.ndim - 3, 0)[0] for a in (self.P, self.p, self.s))
        return 0.5 * (x * (P @ x[..., None])[..., 0]).sum(-1) + (p * x).sum(-1) + s

    def rollout(self, x0: Any) -> tuple[ndarray, ndarray]:
        """Return the optimal states (T + 1, n) and controls (T, m) from x0; (b, ...) for b problems."""
        axis = self.gains.ndim - 3
        F, K, k = (np.moveaxis(a, axis, 0) for a in (self._dynamics, self.gains, self.feedforward))
        n = F.shape[-2] - 1
        x = np.broadcast_to(np.asarray(x0, dtype=np.float64), (*F.shape[1:-2], n))
        states, controls = [x], []
        for t in range(len(F)):
            u = (K[t] @ x[..., None])[..., 0] + k[t]
            x = F[t, ..., 1:, 0] + (F[t, ..., 1:, 1:] @ np.concatenate([x, u], -1)[..., None])[..., 0]
            states.append(x)
            controls.append(u)
        return np.stack(states, axis), np.stack(controls, axis)


@dataclass(frozen=True, eq=False)
class AffineTerms:
    """What makes a linear-quadratic problem affine; each is 0 where it is `None`.

    Attributes:
        c: of the dynamics, (n,).
        q: of the cost, (n,).
        r: of the cost, (m,).
        terminal_linear: q_T, (n,) or (b, n).
    """

    c: Any = None
    q: Any = None
    r: Any = None
    terminal_linear: Any = None


def lqr(
    A: Any,
    B: Any,
    Q: Any,
    R: Any,
    *,
    S: Any = None,
    affine: AffineTerms | None = None,
    terminal: Any = None,
    horizon: int | None = None,
) -> LQRSolution:
    """Minimize Σ_t ½xᵀQx + xᵀSu + ½uᵀRu + qᵀx + rᵀu + ½x_TᵀQ_T x_T + q_Tᵀx_T, with x' = Ax + Bu + c.

    The Riccati recursion backward in time (Kalman, 1960; Anderson & Moore, 1990, section 2.4). Each of the
    arguments is one matrix (vector) for all times, or has a leading dimension of T times, or of b problems
    and T times. Only the symmetric parts of Q, R and Q_T count.

    With all numbers 1 the recursion P ← 1 + P - P²/(1 + P) goes to the golden ratio, and K = -P/(1 + P):

    >>> found = lqr([[1.0]], [[1.0]], [[1.0]], [[1.0]], horizon=40)
    >>> round(float(found.P[0, 0, 0]), 6), round(float(found.gains[0, 0, 0]), 6)
    (1.618034, -0.618034)

    Args:
        A: (n, n).
        B: (n, m).
        Q: (n, n).
        R: (m, m).
        S: (n, m), as in `scipy.linalg.solve_discrete_are`; by default 0.
        affine: c, q, r and q_T; by default 0.
        terminal: Q_T, (n, n) or (b, n, n); by default 0.
        horizon: T; needed where no argument has a dimension of times.

    Raises:
        ValueError: for shapes that do not fit, entries that are not finite, and a horizon below 1.
    """
    affine = affine or AffineTerms()
    given = {"A": A, "B": B, "Q": Q, "R": R, "S": S, "c": affine.c, "q": affine.q, "r": affine.r}
    end = {"terminal": terminal, "terminal_linear": affine.terminal_linear}
    data, b, T, batched = _arrange(given, end, horizon)
    n, m = data["B"].shape[-2:]
    size = 1 + n + m
    x, u = slice(1, 1 + n), slice(1 + n, size)
    F = np.zeros((T, b, 1 + n, size))
    F[..., 0, 0], F[..., x, x], F[..., x, u] = 1, data["A"], data["B"]
    F[..., x, 0] = data.get("c", 0)
    L = np.zeros((T, b, size, size))
    L[..., x, x], L[..., u, u] = _symmetric(data["Q"]), _symmetric(data["R"])
    if "S" in data:
        L[..., x, u], L[..., u, x] = data["S"], data["S"].swapaxes(-1, -2)
    L[..., 0, x] = L[..., x, 0] = data.get("q", 0)
    L[..., 0, u] = L[..., u, 0] = data.get("r", 0)
    V = np.zeros((b, 1 + n, 1 + n))
    if "terminal" in data:
        V[:, x, x] = _symmetric(data["terminal"])
    V[:, 0, x] = V[:, x, 0] = data.get("terminal_linear", 0)

    backward = recursion(F, L, V)
    finite = np.all(np.isfinite(backward.values[:-1]), axis=(-1, -2))
    negative = np.all(np.isfinite(backward.stages), axis=(-1, -2)) & ~backward.definite
    failed, status, remedy = np.any(negative | ~finite, axis=0), Status.CONVERGED, ""
    if failed.any():
        t = int(np.flatnonzero(np.any(negative | ~finite, axis=1))[-1])
        status = Status.ILL_CONDITIONED if negative[t].any() else Status.DIVERGED
        remedy = (_INDEFINITE if negative[t].any() else _OVERFLOW).format(t=t)
    values = _symmetric(backward.values)

    def shaped(array: ndarray) -> ndarray:
        return np.moveaxis(array, 0, 1) if batched else array[:, 0]

    return LQRSolution(
        shaped(backward.gains[..., 1:]),
        shaped(backward.gains[..., 0]),
        shaped(values[..., x, x]),
        shaped(values[..., x, 0]),
        shaped(values[..., 0, 0] / 2),
        shaped(_symmetric(backward.stages[..., u, u])),
        status,
        remedy,
        failed if batched else bool(failed[0]),
        shaped(F),
    )


def _arrange(
    given: dict[str, Any], end: dict[str, Any], horizon: int | None
) -> tuple[dict[str, ndarray], int, int, bool]:
    """Return the data (times before problems), how many problems and times, and if problems were given."""
    arrays = {name: _finite(name, value) for name, value in (given | end).items() if value is not None}
    if arrays["B"].ndim < 2:
        raise ValueError(f"B: its shape is {arrays['B'].shape}; allowed is (n, m), with times before it.")
    n, m = arrays["B"].shape[-2:]
    cores = {"A": (n, n), "B": (n, m), "Q": (n, n), "R": (m, m), "S": (n, m), "c": (n,), "q": (n,), "r": (m,)}
    cores |= {"terminal": (n, n), "terminal_linear": (n,)}
    times, problems = set() if horizon is None else {horizon}, set()
    for name, array in arrays.items():
        core, most = cores[name], 1 if name in end else 2
        lead = array.shape[: array.ndim - len(core)]
        if array.shape[len(lead) :] != core or len(lead) > most:
            before = "with problems" if name in end else "with times, or problems and times,"
            raise ValueError(f"{name}: its shape is {array.shape}; allowed is {core}, {before} before it.")
        if name not in end and lead:
            times.add(lead[-1])
        if len(lead) == most:
            problems.add(lead[0])
    if len(times) != 1:
        raise ValueError(f"horizon: the arguments say {sorted(times) or 'nothing'}; allowed is one number.")
    if len(problems) > 1:
        raise ValueError(f"problems: the arguments have {sorted(problems)} of them; allowed is one number.")
    T, b = times.pop(), problems.pop() if problems else 1
    batched = any(a.ndim - len(cores[name]) == (1 if name in end else 2) for name, a in arrays.items())
    if T < 1:
        raise ValueError(f"horizon={T}: there is nothing to control; allowed is at least 1.")
    for name in arrays.keys() - end.keys():
        arrays[name] = np.broadcast_to(arrays[name], (b, T, *cores[name])).swapaxes(0, 1)
    return arrays, b, T, batched


@dataclass(frozen=True, eq=False)
class BackwardRecursion:
    """One backward recursion in homogeneous coordinates: time first, then problems.

    Attributes:
        gains: [k K], (T, ..., m, 1 + n); zero where they are not defined.
        values: [[2s, pᵀ], [p, P]], (T + 1, ..., 1 + n, 1 + n), symmetric but for rounding.
        stages: the matrix of (1, x, u) before the controls are eliminated, (T, ..., 1 + n + m, 1 + n + m).
    """

    gains: ndarray
    values: ndarray
    stages: ndarray

    @cached_property
    def definite(self) -> ndarray:
        """Whether R + BᵀPB > 0, the pivots of its elimination positive beyond rounding, (T, ...)."""
        n1 = self.values.shape[-1]
        rest, found = self.stages[..., n1:, n1:], np.ones(self.stages.shape[:-2], bool)
        least = 16 * np.finfo(float).eps * np.abs(np.diagonal(rest, axis1=-2, axis2=-1))
        with np.errstate(all="ignore"):
            while size := rest.shape[-1]:
                row, pivot, above = _parts(rest)
                found &= pivot[..., 0, 0] > least[..., size - 1]
                rest = above[..., :-1] - above[..., -1:] * (row / pivot)
        return found


def recursion(
    F: Float[ndarray, "T *#b n1 k"],
    L: Float[ndarray, "T *b k k"],
    V: Float[ndarray, "*#b n1 n1"],
    bounds: tuple[Float[ndarray, "T *#b m"], Float[ndarray, "T *#b m"]] | None = None,
) -> BackwardRecursion:
    """Run V ← min over u of (1, x, u)ᵀ (L_t + F_tᵀ V F_t) (1, x, u) from the end to the start.

    The controls are eliminated one at a time, as symmetric Gauss elimination does (LDLᵀ): nothing raises,
    each problem has its own pivots, and one control needs no solver at all. Rows and columns are kept apart,
    so that an asymmetry by rounding is carried by the closed loop, which contracts, and not by A.

    With bounds, k solves the box-constrained problem at x = 0 and the gains of the controls that sit on a
    bound are zero (Tassa, Mansard & Todorov, 2014). By completion of squares that adds dᵀHd to V, with H the
    matrix of the controls and d what their gains lack.

    Args:
        F: dynamics of (1, x, u), first row (1, 0, 0).
        L: twice the stage cost as a matrix of (1, x, u).
        V: twice the terminal cost as a matrix of (1, x).
        bounds: lowest and highest controls at x = 0.
    """
    T, *batch, k, _ = L.shape
    n1 = F.shape[-2]
    stages, work = np.empty(L.shape), np.empty((*batch, n1, k))
    values = np.empty((T + 1, *batch, n1, n1))
    values[T] = V
    limited: dict[int, ndarray] = {}
    # Eliminated, a matrix A is (A_xx A_xu) (1; -A_ux/A_uu): with (-1; A_ux/A_uu) one step less, and a sign.
    closed = [np.empty((*batch, size + 1, size)) for size in range(k - 1, n1 - 1, -1)]
    for matrix in closed:
        matrix[..., :-1, :] = -_identity(matrix.shape[-1])
    ratios = [matrix[..., -1:, :] for matrix in closed]
    smaller = [np.empty((*batch, size, size)) for size in range(k - 1, n1, -1)]
    sign, gather = (-1, np.subtract) if len(closed) % 2 else (1, np.add)
    low, high = (-bounds[1], -bounds[0]) if bounds else (None, None)  # of -u
    parts = [_parts(matrix) for matrix in smaller]
    steps = (F, F.swapaxes(-1, -2), L, stages, values[:-1], *_parts(stages))
    V = sign * values[T]
    with np.errstate(all="ignore"):
        backward = zip(range(T - 1, -1, -1), *(a[::-1] for a in steps), strict=True)
        for t, F_t, Ft, L_t, stage, value, *first in backward:
            np.matmul(V, F_t, work)
            np.matmul(Ft, work, stage)
            gather(L_t, stage, stage)
            for (row, pivot, above), ratio, matrix, V in zip(
                (first, *parts), ratios, closed, (*smaller, value), strict=True
            ):
                np.divide(row, pivot, ratio)
                np.matmul(above, matrix, V)
            if low is not None and high is not None:
                H = stage[..., n1:, n1:]
                free = ratios[0] if k == n1 + 1 else _solve(H, stage[..., n1:, :n1])
                first_free = free[..., 0]
                inside = np.minimum(np.maximum(first_free, low[t]), high[t])  # np.clip takes twice as long
                if inside.tobytes() != first_free.tobytes():  # and (==).all() four times as long
                    limited[t] = _limited(stage, free, inside, low[t], high[t])
                    off = limited[t] - free
                    gather(V, off.swapaxes(-1, -2) @ (H @ off), V)
        values[:-1] *= sign
        gains = -_solve(stages[..., n1:, n1:], stages[..., n1:, :n1])
        for t, taken in limited.items():
            gains[t] = -taken
    return BackwardRecursion(gains, values, stages)


def _parts(A: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """Return the last row of matrices without its last entry, that, and what stands above them."""
    return A[..., -1:, :-1], A[..., -1:, -1:], A[..., :-1, :]


def _solve(H: ndarray, right: ndarray) -> ndarray:
    """Return H⁻¹ right; zero where H is singular or not finite (its pivots say so)."""
    if H.shape[-1] == 1:
        return np.divide(right, H, out=np.zeros_like(right), where=np.isfinite(H) & (H != 0))
    with suppress(np.linalg.LinAlgError):
        found = np.linalg.solve(H, right)
        if np.isfinite(found).all():
            return found
    finite, identity = np.isfinite(H).all((-1, -2), keepdims=True), _identity(H.shape[-1])
    H = np.where(finite, H, identity)
    sign = np.linalg.slogdet(H)[0]  # a determinant underflows
    usable = finite & np.expand_dims(sign != 0, (-2, -1))
    H = np.where(usable, H, identity)
    return np.linalg.solve(H, np.where(usable, right, 0.0))


def _limited(stage: ndarray, free: ndarray, inside: ndarray, low: ndarray, high: ndarray) -> ndarray:
    """Return -[k K] of a stage with -k in bounds, from that without and its first column in them."""
    n1, kept = free.shape[-1], inside == free[..., 0]
    if free.shape[-2] > 1:
        H, right = stage[..., n1:, n1:], stage[..., n1:, :n1]
        u, kept = _box_qp(H, right[..., 0], -high, -low)
        free, inside = _solve(_restricted(H, kept), right), -u
    taken = np.where(kept[..., None], free, 0.0)
    taken[..., 0] = inside
    return taken


@cache
def _identity(size: int) -> ndarray:
    return np.eye(size)


def _restricted(H: ndarray, free: ndarray) -> ndarray:
    """Return H with the rows and columns of what is not free replaced by those of the identity."""
    both = free[..., :, None] & free[..., None, :]
    return np.where(both, H, _identity(H.shape[-1]))


def box_qp(
    H: Float[ndarray, "*b m m"],
    g: Float[ndarray, "*b m"],
    low: Float[ndarray, "*#b m"],
    high: Float[ndarray, "*#b m"],
    *,
    max_iterations: int = 50,
) -> tuple[Float[ndarray, "*b m"], Bool[ndarray, "*b m"]]:
    """Minimize ½uᵀHu + gᵀu over low ≤ u ≤ high for a batch, H positive definite, by projected Newton.

    Each iteration takes the lowest point on two projected paths, the Newton step's in the free coordinates
    (Bertsekas, 1982; Tassa, Mansard & Todorov, 2014, section III-B) and the gradient's, which alone would
    converge (Moré & Toraldo, 1991): every path is searched exactly, piece by piece. So only an optimum, or
    rounding, ends it.

    >>> u, free = box_qp(np.eye(2), np.array([-3.0, 0.5]), np.full(2, -1.0), np.full(2, 1.0))
    >>> u.tolist(), free.tolist()  # the free minimum (3, -0.5), each coordinate brought into the box
    ([1.0, -0.5], [False, True])

    Args:
        H: Hessians.
        g: gradients at u = 0.
        low: lowest u.
        high: highest u.
        max_iterations: pairs of paths; three to six are usual.

    Returns:
        u, and which coordinates are free of their bounds (bool).

    Raises:
        ValueError: for entries that are not finite, an H that is not positive definite, or a low above high.
    """
    for name, value in (("H", H), ("g", g)):
        _finite(name, value)
    if not (np.linalg.eigvalsh(H)[..., 0] > 0).all():
        raise ValueError("H: it is not positive definite, so that no u is the lowest.")
    if not (low <= high).all():
        raise ValueError("low: it is above high, so that no u lies between.")
    return _box_qp(H, g, low, high, max_iterations)


def _box_qp(
    H: ndarray, g: ndarray, low: ndarray, high: ndarray, max_iterations: int = 50
) -> tuple[ndarray, ndarray]:
    """As `box_qp`; where H is not finite or not definite, u means nothing."""
    if H.shape[-1] == 1:
        u = np.clip(-g / H[..., 0], low, high)
        return u, (low < u) & (u < high)
    low, high = np.broadcast_to(low, g.shape), np.broadcast_to(high, g.shape)
    u = np.clip(-_solve(H, g[..., None])[..., 0], low, high)
    for iteration in range(max_iterations + 1):
        gradient = g + (H @ u[..., None])[..., 0]
        free = ~((u <= low) & (gradient > 0) | (u >= high) & (gradient < 0))
        if iteration == max_iterations:
            break
        downhill = np.where(free, -gradient, 0.0)
        newton = _solve(_restricted(H, free), downhill[..., None])[..., 0]
        aim = u + newton
        inside = np.clip(aim, low, high)
        if not (np.abs(inside - u) > 1e-14 * (1 + np.abs(u))).any():
            break
        if iteration == 0 and (inside == aim).all():  # the lowest point of the face, and so of both paths
            u = aim
            continue
        paths = [_lowest_on_path(H, gradient, u, step, low, high) for step in (newton, downhill)]
        change, points = (np.stack(part) for part in zip(*paths, strict=True))
        lowest = np.take_along_axis(points, change.argmin(0)[None, ..., None], 0)[0]
        if not (lower := change.min(0) < 0).any():
            break
        u = np.where(lower[..., None], lowest, u)
    return u, free


def _lowest_on_path(
    H: ndarray, gradient: ndarray, u: ndarray, step: ndarray, low: ndarray, high: ndarray
) -> tuple[ndarray, ndarray]:
    """Return by how much ½uᵀHu + gᵀu changes to its lowest point on s ↦ clip(u + s step), and that point.

    The path is straight between the sizes s at which a coordinate reaches its bound; on each piece the
    minimum is that of a parabola.
    """
    wall = np.where(step > 0, high, low)
    hits = np.divide(wall - u, step, out=np.full(u.shape, np.inf), where=step != 0)
    sizes = np.concatenate([np.zeros((*hits.shape[:-1], 1)), np.sort(hits, -1)], -1)
    sizes = np.where(np.isfinite(sizes), sizes, 0.0)  # a piece that does not exist is the first one again
    moving = np.where(hits[..., None, :] > sizes[..., None], step[..., None, :], 0.0)
    offsets = np.where(  # exactly on a bound, or a coordinate jams next to it
        hits[..., None, :] > sizes[..., None], sizes[..., None] * step[..., None, :], (wall - u)[..., None, :]
    )
    slope = (moving * (gradient[..., None, :] + offsets @ H)).sum(-1)
    curvature = (moving * (moving @ H)).sum(-1)
    length = np.divide(-slope, curvature, out=np.zeros_like(slope), where=(slope < 0) & (curvature > 0))
    points = np.clip(
        u[..., None, :] + offsets + length[..., None] * moving, low[..., None, :], high[..., None, :]
    )
    path = points - u[..., None, :]
    change = (path * (gradient[..., None, :] + 0.5 * path @ H)).sum(-1)
    best = change.argmin(-1)[..., None]
    return (
        np.take_along_axis(change, best, -1)[..., 0],
        np.take_along_axis(points, best[..., None], -2)[..., 0, :],
    )


def _finite(name: str, value: Any) -> ndarray:
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: it has NaN or infinite entries.")
    return array


def _symmetric(array: ndarray) -> ndarray:
    return (array + array.swapaxes(-1, -2)) / 2
