"""Exact first and second derivatives of functions written for numpy: truncated Taylor arithmetic.

A `TaylorArray` stands for a₀ + Σ_i a_i ε_i + ½ Σ_ij a_ij ε_i ε_j with higher powers of ε dropped, and numpy's
functions on it are the rules of calculus (Griewank & Walther 2008, chapter 13). So a function of z = (x, u)
called once on z + ε returns its value, gradient and Hessian at all points of a trajectory at once. What is
not in the tables raises `TypeError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["SMOOTH", "TaylorArray", "gradient_and_hessian", "jacobian"]

SMOOTH: dict[np.ufunc, Callable[[Any, Any], tuple[Any, Any]]] = {
    np.sin: lambda x, y: (np.cos(x), -y),
    np.cos: lambda x, y: (-np.sin(x), -y),
    np.tan: lambda x, y: (1 + y * y, 2 * y * (1 + y * y)),
    np.exp: lambda x, y: (y, y),
    np.expm1: lambda x, y: (y + 1, y + 1),
    np.log: lambda x, y: (1 / x, -1 / (x * x)),
    np.log1p: lambda x, y: (1 / (1 + x), -1 / ((1 + x) * (1 + x))),
    np.sqrt: lambda x, y: (0.5 / y, -0.25 / (x * y)),
    np.square: lambda x, y: (2 * x, 2.0),
    np.reciprocal: lambda x, y: (-y * y, 2 * y * y * y),
    np.sinh: lambda x, y: (np.cosh(x), y),
    np.cosh: lambda x, y: (np.sinh(x), y),
    np.tanh: lambda x, y: (1 - y * y, -2 * y * (1 - y * y)),
    np.arctan: lambda x, y: (1 / (1 + x * x), -2 * x / (1 + x * x) ** 2),
    np.arcsin: lambda x, y: ((1 - x * x) ** -0.5, x * (1 - x * x) ** -1.5),
    np.arccos: lambda x, y: (-((1 - x * x) ** -0.5), -x * (1 - x * x) ** -1.5),
    np.absolute: lambda x, y: (np.sign(x), 0.0),
}
"""x and y = f(x) to f'(x) and f''(x)."""
_FLAT = {  # what has no derivative but 0 takes the values alone
    *(np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal, np.sign),
    *(np.isfinite, np.isnan, np.floor, np.ceil, np.rint),
}


@cache
def _pairs(size: int) -> tuple[ndarray, ndarray]:
    return np.triu_indices(size)


class TaylorArray(NDArrayOperatorsMixin):
    """An array with derivatives along k directions.

    >>> x = TaylorArray(np.array(3.0), np.array([1.0]), None, 2)
    >>> y = np.sin(x) * x
    >>> bool(np.isclose(y.first[0], np.sin(3) + 3 * np.cos(3))), y.second.shape
    (True, (1,))

    Attributes:
        value: of any shape s.
        first: (k, *s).
        second: of i ≤ j, (k (k + 1) / 2, *s); `None` where all are 0, or not asked for.
        order: 1 or 2, the highest derivatives that are kept.
    """

    __array_priority__ = 1000

    def __init__(self, value: ndarray, first: ndarray, second: ndarray | None, order: int) -> None:
        self.value, self.first, self.second, self.order = value, first, second, order

    # What arrays have.

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """Dimensions of the values."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """Number of values."""
        return self.value.size

    @property
    def T(self) -> TaylorArray:
        """All dimensions in the other order."""
        return self.transpose()

    def __len__(self) -> int:
        return len(self.value)

    def __array__(self, *args: Any, **kwargs: Any) -> ndarray:
        raise TypeError("a plain array has no derivatives.")

    def __getitem__(self, key: Any) -> TaylorArray:
        keys = key if isinstance(key, tuple) else (key,)
        if all(k is None or k is Ellipsis or isinstance(k, int | slice | np.integer) for k in keys):
            return self._mapped(self.value[key], lambda a: a[:, *keys])
        return self._mapped(self.value[key], lambda a: np.stack([one[key] for one in a]))

    def reshape(self, *shape: Any) -> TaylorArray:
        """Return as `numpy.reshape`."""
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        value = self.value.reshape(shape)
        return self._mapped(value, lambda a: a.reshape(len(a), *value.shape))

    def transpose(self, *axes: Any) -> TaylorArray:
        """Return as `numpy.transpose`."""
        value = self.value.transpose(*axes)
        return self._mapped(value, lambda a: np.stack([one.transpose(*axes) for one in a]))

    def swapaxes(self, one: int, other: int) -> TaylorArray:
        """Return as `numpy.swapaxes`."""
        a, b = (axis % self.ndim + 1 for axis in (one, other))
        return self._mapped(self.value.swapaxes(one, other), lambda x: x.swapaxes(a, b))

    def sum(self, axis: Any = None, keepdims: bool = False) -> TaylorArray:
        """Return as `numpy.sum`."""
        axes = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        shifted = tuple(a % self.ndim + 1 for a in axes)
        return self._mapped(
            np.asarray(self.value.sum(axis, keepdims=keepdims)), lambda a: a.sum(shifted, keepdims=keepdims)
        )

    def mean(self, axis: Any = None, keepdims: bool = False) -> TaylorArray:
        """Return as `numpy.mean`."""
        total = self.sum(axis, keepdims)
        return total * (max(total.size, 1) / self.size)

    # Calculus.

    def _mapped(self, value: Any, linear: Callable[[ndarray], ndarray]) -> TaylorArray:
        """Return what a linear map of the entries makes of all derivatives."""
        second = None if self.second is None else linear(self.second)
        return TaylorArray(np.asarray(value), linear(self.first), second, self.order)

    def _composed(self, value: ndarray, slope: Any, bend: Any) -> TaylorArray:
        """Return f(a) from f, f' and f'' at a₀: the chain rule."""
        if self.order == 1:
            return TaylorArray(value, slope * self.first, None, 1)
        i, j = _pairs(len(self.first))
        second = bend * (self.first[i] * self.first[j])
        if self.second is not None:
            second += slope * self.second
        return TaylorArray(value, slope * self.first, second, 2)

    def _aligned(self, ndim: int) -> TaylorArray:
        """Return itself with 1s before its shape, so that derivatives broadcast as values do."""
        missing = ndim - self.ndim
        return self if missing <= 0 else self.reshape((*[1] * missing, *self.shape))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        if ufunc in _FLAT:
            return ufunc(*(a.value if isinstance(a, TaylorArray) else a for a in inputs))
        if ufunc in SMOOTH:
            value = ufunc(self.value)
            return self._composed(value, *SMOOTH[ufunc](self.value, value))
        if ufunc is np.positive:
            return self
        if ufunc is np.negative:
            return self._mapped(-self.value, np.negative)
        rule = _BINARY.get(ufunc)
        return NotImplemented if rule is None else rule(*inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        rule = _FUNCTIONS.get(function)
        return NotImplemented if rule is None else rule(*args, **kwargs)


def _lifted(a: Any, like: TaylorArray) -> TaylorArray:
    """Return a constant as an array whose derivatives are 0."""
    if isinstance(a, TaylorArray):
        return a
    value = np.asarray(a, dtype=np.float64)
    return TaylorArray(value, np.zeros((len(like.first), *value.shape)), None, like.order)


def _model(*inputs: Any) -> TaylorArray:
    return next(a for a in inputs if isinstance(a, TaylorArray))


def _sum(a: Any, b: Any, sign: int) -> TaylorArray:
    like = _model(a, b)
    if not (isinstance(a, TaylorArray) and isinstance(b, TaylorArray)):
        constant = b if like is a else a
        value = like.value + sign * constant if like is a else constant + sign * like.value
        like = like if like is a or sign == 1 else -like
        if value.shape == like.shape:
            return TaylorArray(value, like.first, like.second, like.order)
        like = like._aligned(value.ndim)
        return like._mapped(value, lambda c: np.broadcast_to(c, (len(c), *value.shape)))
    value = a.value + sign * b.value
    a, b = a._aligned(value.ndim), b._aligned(value.ndim)
    second = a.second
    if b.second is not None:
        second = sign * b.second if second is None else second + sign * b.second
        second = np.broadcast_to(second, (len(second), *value.shape))
    return TaylorArray(value, a.first + sign * b.first, second, like.order)


def _product(a: Any, b: Any, times: Callable[[Any, Any], Any] = np.multiply) -> TaylorArray:
    """Return a × b for a bilinear ×: the rule of Leibniz."""
    like = _model(a, b)
    if not isinstance(b, TaylorArray):
        b = np.asarray(b)
        return a._aligned(b.ndim)._mapped(times(a.value, b), lambda c: times(c, b))
    if not isinstance(a, TaylorArray):
        a = np.asarray(a)
        return b._aligned(a.ndim)._mapped(times(a, b.value), lambda c: times(a, c))
    value = times(a.value, b.value)
    if a is b and times is np.multiply:
        return a._composed(value, 2 * a.value, 2.0)
    ndim = max(a.ndim, b.ndim)
    a, b = a._aligned(ndim), b._aligned(ndim)
    first, second = times(a.first, b.value) + times(a.value, b.first), None
    if like.order == 2:
        i, j = _pairs(len(a.first))
        second = times(a.first[i], b.first[j]) + times(a.first[j], b.first[i])
        if a.second is not None:
            second += times(a.second, b.value)
        if b.second is not None:
            second += times(a.value, b.second)
    return TaylorArray(value, first, second, like.order)


def _power(a: Any, b: Any) -> TaylorArray:
    if isinstance(b, TaylorArray):
        return np.exp(b * np.log(a))
    if np.ndim(b) == 0 and b == 2:
        return _product(a, a)
    x, b = a.value, np.asarray(b, dtype=np.float64)
    down = [np.where(b == k, 0.0, np.power(x, np.where(b == k, 0.0, b - 1 - k))) for k in (0, 1)]
    down[1] = np.where(b == 0, 0.0, down[1])
    value = np.power(x, b)
    return a._aligned(value.ndim)._composed(value, b * down[0], b * (b - 1) * down[1])


def _chosen(condition: Any, a: Any, b: Any) -> TaylorArray:
    like = _model(a, b)
    a, b = _lifted(a, like), _lifted(b, like)
    condition = np.asarray(condition)
    value = np.where(condition, a.value, b.value)
    a, b = a._aligned(value.ndim), b._aligned(value.ndim)
    first, second = np.where(condition, a.first, b.first), None
    if a.second is not None or b.second is not None:
        parts = (np.zeros(1) if c.second is None else c.second for c in (a, b))
        second = np.where(condition, *parts)
    return TaylorArray(value, first, second, like.order)


def _values(*inputs: Any) -> tuple[Any, ...]:
    return tuple(a.value if isinstance(a, TaylorArray) else a for a in inputs)


def _arctan2(y: Any, x: Any) -> TaylorArray:
    like = _model(y, x)
    y, x = _lifted(y, like), _lifted(x, like)
    angle = np.arctan2(y.value, x.value)
    c, s = np.cos(angle), np.sin(angle)  # turned to the x axis, where it is the arctangent of a ratio
    ratio = (y * c - x * s) / (x * c + y * s)
    turned = np.arctan(ratio)
    return TaylorArray(angle, turned.first, turned.second, like.order)


_BINARY: dict[np.ufunc, Callable[..., Any]] = {
    np.add: lambda a, b: _sum(a, b, 1),
    np.subtract: lambda a, b: _sum(a, b, -1),
    np.multiply: _product,
    np.matmul: lambda a, b: _product(a, b, np.matmul),
    np.divide: lambda a, b: _product(
        a, np.reciprocal(b) if isinstance(b, TaylorArray) else 1.0 / np.asarray(b)
    ),
    np.power: _power,
    np.maximum: lambda a, b: _chosen(np.greater_equal(*_values(a, b)), a, b),
    np.minimum: lambda a, b: _chosen(np.less_equal(*_values(a, b)), a, b),
    np.arctan2: _arctan2,
}


def _joined(join: Callable[..., ndarray], arrays: Sequence[Any], axis: int) -> TaylorArray:
    like = _model(*arrays)
    parts = [_lifted(a, like) for a in arrays]
    axis = axis if axis < 0 else axis + 1
    second = None
    if any(part.second is not None for part in parts):
        size = len(_pairs(len(like.first))[0])
        second = join(
            [np.zeros((size, *p.shape)) if p.second is None else p.second for p in parts], axis=axis
        )
    value = join([part.value for part in parts], axis=axis if axis < 0 else axis - 1)
    return TaylorArray(value, join([part.first for part in parts], axis=axis), second, like.order)


def _clipped(a: Any, low: Any = None, high: Any = None) -> Any:
    a = a if low is None else np.maximum(a, low)
    return a if high is None else np.minimum(a, high)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: lambda a, axis=None, keepdims=False: a.sum(axis, keepdims),
    np.mean: lambda a, axis=None, keepdims=False: a.mean(axis, keepdims),
    np.reshape: lambda a, shape: a.reshape(shape),
    np.transpose: lambda a, axes=None: a.transpose(axes),
    np.swapaxes: lambda a, one, other: a.swapaxes(one, other),
    np.concatenate: lambda arrays, axis=0: _joined(np.concatenate, arrays, axis),
    np.stack: lambda arrays, axis=0: _joined(np.stack, arrays, axis),
    np.where: _chosen,
    np.clip: _clipped,
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.broadcast_to: lambda a, shape: a + np.zeros(shape),
    np.zeros_like: lambda a: np.zeros(a.shape),
    np.ones_like: lambda a: np.ones(a.shape),
}


def _variable(z: ndarray, order: int) -> TaylorArray:
    """Return z + ε along every coordinate of its last axis."""
    size = z.shape[-1]
    first = np.broadcast_to(np.eye(size).reshape(size, *[1] * (z.ndim - 1), size), (size, *z.shape))
    return TaylorArray(z, first, None, order)


def jacobian(f: Callable[[Any], Any], z: ndarray) -> ndarray:
    """Return ∂f/∂z, (..., r, k), of a function that broadcasts over leading dimensions of z.

    >>> jacobian(lambda z: z * z, np.array([[1.0, 3.0]])).tolist()
    [[[2.0, 0.0], [0.0, 6.0]]]

    Args:
        f: (..., k) ↦ (..., r).
        z: where.

    Raises:
        TypeError: for a function that numpy has and the tables have not.
    """
    at = _variable(z, 1)
    return np.moveaxis(_lifted(f(at), at).first, 0, -1)


def gradient_and_hessian(f: Callable[[Any], Any], z: ndarray) -> tuple[ndarray, ndarray]:
    """Return ∂f/∂z, (..., k), and ∂²f/∂z², (..., k, k), of f: (..., k) ↦ (...).

    >>> gradient, hessian = gradient_and_hessian(lambda z: z[..., 0] * z[..., 1], np.array([2.0, 3.0]))
    >>> gradient.tolist(), hessian.tolist()
    ([3.0, 2.0], [[0.0, 1.0], [1.0, 0.0]])

    Args:
        f: broadcasts over leading dimensions.
        z: where, (..., k).

    Raises:
        TypeError: as `jacobian`.
    """
    at = _variable(z, 2)
    found, k = _lifted(f(at), at), z.shape[-1]
    hessian = np.zeros((*z.shape, k))
    if found.second is not None:
        i, j = _pairs(k)
        hessian[..., i, j] = hessian[..., j, i] = np.moveaxis(found.second, 0, -1)
    return np.moveaxis(found.first, 0, -1), hessian
