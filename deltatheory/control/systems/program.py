"""Straight-line programs: the single numbers that a function of small arrays computes, written down once.

Called on symbols, a function leaves its operations behind, each once. From their list follow the Jacobian, by
one sweep forward, and the Hessian of Σ p_i f_i, by one sweep back: it is the sum over operations of λ, the
derivative in their result, times their own second derivatives in the tangents of their arguments (Griewank &
Walther, 2008, chapters 3 and 5). What is 0 by structure is never computed. The code runs on arrays, for all
points of a trajectory at once, or on floats, some twenty times quicker than arrays of one number: so the
steps of a rollout, which wait for each other, take a microsecond each.

What is no arithmetic (a comparison, an index, a conversion to float) raises `TypeError`: nothing that depends
on values can be written down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial, partialmethod
from numbers import Real
from typing import Any

import numpy as np
from numpy import ndarray

from deltatheory.control.systems.taylor import SMOOTH

__all__ = ["Program"]

_LONGEST = 5000  # operations, derivatives included: beyond, numpy on whole arrays is quicker
_UFUNCS = {ufunc.__name__: ufunc for ufunc in SMOOTH if ufunc not in (np.absolute, np.square)}
_ARRAYS = _UFUNCS | {"power": np.power, "inf": math.inf, "nan": math.nan}
_FLOATS = _ARRAYS | {"power": math.pow}
_FLOATS |= {name: getattr(math, name.replace("arc", "a")) for name in _UFUNCS if name != "reciprocal"}
_TEXT = {"+": "{} + {}", "-": "{} - {}", "*": "{} * {}", "power": "power({}, {})", "reciprocal": "1.0 / {}"}
_NEUTRAL = {"+": 0.0, "*": 1.0}

Number = Any  # a Symbol, or a float where it is the same everywhere


class Symbol:
    """A number of a program: an input, or what an operation makes of other numbers."""

    __slots__ = ("arguments", "operation", "place", "program")

    def __init__(self, program: Program, operation: str, arguments: tuple[Number, ...]) -> None:
        self.program, self.operation, self.arguments = program, operation, arguments
        self.place = len(program.symbols)
        program.symbols.append(self)

    def _operate(self, operation: str, *others: Any, reflected: bool = False) -> Any:
        if not all(isinstance(other, Symbol | Real) for other in others):
            return NotImplemented
        return self.program.operate(operation, *((*others, self) if reflected else (self, *others)))

    __add__, __radd__ = partialmethod(_operate, "+"), partialmethod(_operate, "+", reflected=True)
    __sub__, __rsub__ = partialmethod(_operate, "-"), partialmethod(_operate, "-", reflected=True)
    __mul__, __rmul__ = partialmethod(_operate, "*"), partialmethod(_operate, "*", reflected=True)

    def __truediv__(self, other: Any) -> Any:
        return self * (1.0 / other) if isinstance(other, Symbol | Real) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return self._operate("reciprocal") * other

    def __pow__(self, exponent: Any) -> Any:
        if isinstance(exponent, Symbol):
            raise TypeError("a power with a varying exponent is not written down.")
        if exponent in (0, 1, 2):
            return (1.0, self, self * self)[int(exponent)]
        return self._operate("power", exponent)

    def __neg__(self) -> Any:
        return self * -1.0

    def __pos__(self) -> Any:
        return self

    def __eq__(self, other: object) -> bool:
        raise TypeError("a symbol has no value to compare.")

    def __bool__(self) -> bool:
        raise TypeError("a symbol has no value to decide by.")


for _name in _UFUNCS:
    setattr(Symbol, _name, partialmethod(Symbol._operate, _name))


def _slopes(symbol: Symbol) -> list[tuple[Symbol, Number]]:
    """Return the arguments of an operation that vary, each with the derivative of the result in it."""
    a, b = symbol.arguments[0], symbol.arguments[-1]
    if symbol.operation == "*":
        found = [(a, 2.0 * a)] if a is b else [(a, b), (b, a)]
    elif symbol.operation in ("+", "-"):
        found = [(a, 1.0), (b, 1.0 if symbol.operation == "+" else -1.0)]
    elif symbol.operation == "power":
        found = [(a, b * a ** (b - 1.0))]
    else:
        found = [(a, SMOOTH[_UFUNCS[symbol.operation]](a, symbol)[0])]
    return [(argument, slope) for argument, slope in found if isinstance(argument, Symbol)]


def _bends(symbol: Symbol) -> list[tuple[Symbol, Symbol, Number]]:
    """Return the pairs of arguments in which an operation has a second derivative, with it."""
    a, b = symbol.arguments[0], symbol.arguments[-1]
    if symbol.operation == "*":
        return [(a, b, 2.0 if a is b else 1.0)] if isinstance(a, Symbol) and isinstance(b, Symbol) else []
    if symbol.operation in ("+", "-"):
        return []
    if symbol.operation == "power":
        return [(a, a, b * (b - 1.0) * a ** (b - 2.0))]
    return [(a, a, SMOOTH[_UFUNCS[symbol.operation]](a, symbol)[1])]


class Program:
    """The operations of f: (t, z) ↦ numbers, and their derivatives in z.

    >>> program = Program(lambda t, z: z[..., :1] * np.sin(z[..., 1:]), 2)
    >>> program.jacobian(0, np.array([[3.0, 0.0], [1.0, 0.0]])).tolist()
    [[[0.0, 3.0]], [[0.0, 1.0]]]
    >>> program.hessian(0, np.array([3.0, 0.0]), np.array([2.0])).tolist()
    [[0.0, 2.0], [2.0, -0.0]]

    Args:
        f: (t, z) ↦ (..., r) or (...), written for numpy.
        size: k, of z.

    Raises:
        TypeError: for what is no arithmetic, or too much of it; whatever else f raises on symbols.
    """

    def __init__(self, f: Callable[[Any, Any], Any], size: int) -> None:
        self._f, self.symbols = f, list[Symbol]()
        self._known: dict[tuple[Any, ...], Symbol] = {}
        self._time = Symbol(self, "t", ())
        self._variables = [Symbol(self, f"z{i}", ()) for i in range(size)]
        found = np.ravel(np.asarray(f(self._time, np.array([self._variables])), dtype=object)).tolist()
        self.outputs: list[Number] = [one if isinstance(one, Symbol) else float(one) for one in found]
        self._weights = [Symbol(self, f"p{i}", ()) for i in range(len(found))]
        self._first_at, self._second_at = self._differentiated()

    def __reduce__(self) -> Any:
        return Program, (self._f, len(self._variables))  # code is not copied, but written anew

    def operate(self, operation: str, *arguments: Number) -> Number:
        """Return the result of an operation; what was done before is not done again."""
        arguments = tuple(a if isinstance(a, Symbol) else float(a) for a in arguments)
        if operation in _NEUTRAL:
            for one, other in (arguments, arguments[::-1]):
                if not isinstance(one, Symbol) and one == _NEUTRAL[operation]:
                    return other
        key = operation, *(a.place if isinstance(a, Symbol) else repr(a) for a in arguments)
        if key not in self._known:
            if len(self.symbols) >= _LONGEST:
                raise TypeError(f"there are more than {_LONGEST} operations.")
            self._known[key] = Symbol(self, operation, arguments)
        return self._known[key]

    # Derivatives, as symbols.

    def _needed(self, outputs: Sequence[Number]) -> dict[int, int]:
        """Return the places of what outputs need, each with the last place that needs it."""
        last = {one.place: len(self.symbols) for one in outputs if isinstance(one, Symbol)}
        for symbol in reversed(self.symbols):
            if symbol.place in last:
                for a in symbol.arguments:
                    if isinstance(a, Symbol):
                        last.setdefault(a.place, symbol.place)
        return last

    def _operations(self, outputs: Sequence[Number]) -> list[Symbol]:
        needed = self._needed(outputs)
        return [symbol for symbol in self.symbols if symbol.place in needed and symbol.arguments]

    @cached_property
    def _tangents(self) -> dict[int, dict[int, Number]]:
        """Place ↦ the derivatives in the variables, those that are not 0, of all that outputs need."""
        tangents: dict[int, dict[int, Number]] = {v.place: {i: 1.0} for i, v in enumerate(self._variables)}
        for symbol in self._operations(self.outputs):
            row = tangents[symbol.place] = {}
            for argument, slope in _slopes(symbol):
                for i, inner in tangents.get(argument.place, {}).items():
                    row[i] = row[i] + slope * inner if i in row else slope * inner
        return tangents

    def _second(self, weights: Sequence[Number]) -> dict[tuple[int, ...], Number]:
        """Return the entries of the Hessian of Σ weights · outputs that are not 0."""
        adjoints: dict[int, Number] = {}
        found: dict[tuple[int, ...], Number] = {}
        tangents, operations = self._tangents, self._operations(self.outputs)

        for output, weight in zip(self.outputs, weights, strict=True):
            if isinstance(output, Symbol):
                adjoints[output.place] = adjoints.get(output.place, 0.0) + weight
        for symbol in reversed(operations):
            adjoint = adjoints[symbol.place]
            for a, b, bend in _bends(symbol):
                for i, left in tangents.get(a.place, {}).items():
                    for j, right in tangents.get(b.place, {}).items():
                        if a is b and i > j:
                            continue
                        term = adjoint * bend * left * right * (2.0 if i == j and a is not b else 1.0)
                        place = min(i, j), max(i, j)
                        found[place] = found.get(place, 0.0) + term
            for argument, slope in _slopes(symbol):
                adjoints[argument.place] = adjoints.get(argument.place, 0.0) + adjoint * slope
        return found | {(j, i): value for (i, j), value in found.items()}

    # Code.

    def _code(self, outputs: Sequence[Number]) -> tuple[list[str], list[str]]:
        """Return lines that compute outputs, and the names of these; a name is used again when it is free."""
        last, lines, free = self._needed(outputs), [], []
        names = {s.place: s.operation for s in self.symbols if not s.arguments}

        def text(number: Number) -> str:
            return names[number.place] if isinstance(number, Symbol) else repr(number)

        for symbol in self._operations(outputs):
            operands = [text(a) for a in symbol.arguments]
            places = {a.place for a in symbol.arguments if isinstance(a, Symbol) and a.arguments}
            free += [names[place] for place in places if last[place] == symbol.place]
            names[symbol.place] = free.pop() if free else f"r{len(lines)}"
            pattern = _TEXT.get(symbol.operation, f"{symbol.operation}({{}})")
            lines.append(f"{names[symbol.place]} = {pattern.format(*operands)}")
        return lines, [text(one) for one in outputs]

    def _array(
        self, entries: dict[tuple[int, ...], Number], shape: tuple[int, ...], *inputs: Symbol
    ) -> Callable[..., ndarray]:
        """Return (t, points, ...) ↦ an array that has these entries at each point, from columns of inputs."""
        constant = np.zeros(shape)
        for place, value in entries.items():
            if not isinstance(value, Symbol):
                constant[place] = value
        varying = {place: value for place, value in entries.items() if isinstance(value, Symbol)}
        lines, names = self._code(list(varying.values()))
        head = f"def code({', '.join(one.operation for one in inputs)}):"
        evaluate = _compiled(head, [*lines, f"return [{', '.join(names)}]"], _ARRAYS)
        return partial(_filled, constant, list(varying), evaluate)

    def _differentiated(self) -> tuple[Callable[..., ndarray], Callable[..., ndarray]]:
        """Return (t, z) ↦ Jacobian, and (t, z, p) ↦ weighted Hessian; without p for a single number."""
        inputs, k = (self._time, *self._variables), len(self._variables)
        rows = [self._tangents.get(one.place, {}) if isinstance(one, Symbol) else {} for one in self.outputs]
        entries = {(i, j): value for i, row in enumerate(rows) for j, value in row.items()}
        weights = self._weights if len(rows) > 1 else []
        second = self._second(weights or [1.0])
        return self._array(entries, (len(rows), k), *inputs), self._array(second, (k, k), *inputs, *weights)

    def jacobian(self, t: Any, z: ndarray) -> ndarray:
        """Return ∂f/∂z, (..., r, k), at z, (..., k), and times that broadcast against the points."""
        return self._first_at(t, z)

    def hessian(self, t: Any, z: ndarray, p: ndarray) -> ndarray:
        """Return Σ_i p_i ∂²f_i/∂z², (..., k, k), for p, (..., r)."""
        return self._second_at(t, z, p) if p.shape[-1] > 1 else p[..., None] * self._second_at(t, z)

    def gradient_and_hessian(self, t: Any, z: ndarray) -> tuple[ndarray, ndarray]:
        """Return both, (..., k) and (..., k, k), of an f with one value."""
        return self._first_at(t, z)[..., 0, :], self._second_at(t, z)

    @cached_property
    def _loop(self) -> Callable[..., list[tuple[float, ...]]]:
        """The code of `rollout`: rows of offsets and gains ↦ rows of controls and next states."""
        z = [one.operation for one in self._variables]
        x, u = z[: len(self.outputs)], z[len(self.outputs) :]
        gains = [[f"k{i}_{j}" for j in range(len(x))] for i in range(len(u))]
        row = [*(f"o{i}" for i in range(len(u))), *(name for some in gains for name in some)]
        body = []
        for i, name in enumerate(u):
            terms = (f"{gain} * {state}" for gain, state in zip(gains[i], x, strict=True))
            body.append(f"{name} = " + " + ".join([f"o{i}", *terms]))
            body.append(f"if {name} < low[{i}]: {name} = low[{i}]")
            body.append(f"if {name} > high[{i}]: {name} = high[{i}]")
        lines, names = self._code(self.outputs)
        body += [*lines, f"{', '.join(x)}, = {', '.join(names)},", f"found.append(({', '.join(u + x)}))"]
        loop = [
            "found = []",
            f"for t, ({', '.join(row)},) in enumerate(rows):",
            *(f" {line}" for line in body),
        ]
        return _compiled(f"def code(rows, low, high, {', '.join(x)}):", [*loop, "return found"], _FLOATS)

    def rollout(
        self, x: ndarray, offsets: ndarray, gains: ndarray, limits: tuple[ndarray, ndarray]
    ) -> tuple[ndarray, ndarray]:
        """Return the states (T + 1, n) of x' = f(t, (x, u)) from x, and u = offset_t + K_t x in its limits.

        Args:
            x: (n,), where f has n values.
            offsets: (T, m).
            gains: K, (T, m, n).
            limits: lowest and highest u, each (m,).

        Raises:
            ArithmeticError: where floats raise it and arrays do not: overflow, division by 0.
            ValueError: likewise, outside of the domain of a function.
        """
        rows = np.concatenate([offsets, gains.reshape(len(gains), -1)], 1).tolist()
        found = np.array(self._loop(rows, *(limit.tolist() for limit in limits), *x.tolist()))
        m = offsets.shape[1]
        return np.concatenate([x[None], found[:, m:]]), found[:, :m]


def _compiled(head: str, lines: Sequence[str], names: dict[str, Any]) -> Callable[..., Any]:
    """Return the function `code` of some lines, in which `names` are known."""
    scope = dict(names)
    exec("\n ".join([head, *lines]), scope)  # of our own making: numbers, and the names above
    return scope["code"]


def _filled(
    constant: ndarray,
    places: Sequence[tuple[int, ...]],
    evaluate: Callable[..., list[ndarray]],
    t: Any,
    *points: ndarray,
) -> ndarray:
    array = np.empty((*points[0].shape[:-1], *constant.shape))
    array[...] = constant
    columns = (a[..., i] for a in points for i in range(a.shape[-1]))
    for place, values in zip(places, evaluate(t, *columns), strict=True):
        array[..., *place] = values
    return array
