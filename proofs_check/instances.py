"""What certificates of single instances speak of: networks (X3), switched systems (T41), slopes (T48)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from proofs_check.certificate import digest
from proofs_check.expressions import Tree, derivative
from proofs_check.rational import Matrix


@dataclass(frozen=True)
class Block:
    """A network x -> W1 phi(W0 x + b) with L^2 <= bound; its integers are told by their digest.

    Whether the integers of a MiniLM block are its weights is not checked here: `prove.lipschitz` made them.
    """

    title: str
    network: str
    bound: Fraction


def network(inner: list, outer: list, scale: list[int], slopes: list[list[int]]) -> str:
    """Return the digest of W0 / scale, W1 / scale, the scale, and the least and the greatest slope of phi."""
    return digest([inner, outer, scale, slopes])


def _minilm(layer: int) -> str:
    return f"MiniLM, MLP of layer {layer}, leading 8 inputs and outputs, GELU, weights rounded to 1/512"


BLOCKS = {
    "two_units": Block(
        "W0 = [[-2, -2], [-2, -1]], W1 = [[-2, 2]], ReLU",
        network([[-2, -2], [-2, -1]], [[-2, 2]], [1, 1], [[0, 1], [1, 1]]),
        Fraction(32),
    ),
    "minilm_layer_0": Block(
        _minilm(0),
        "19c6af86c1bee6d717cc6ac75621b10d0c350b6612c4018978c9ebb19da09a45",
        Fraction(36670803, 40000),
    ),
    "minilm_layer_5": Block(
        _minilm(5),
        "6e74422612ff7d7a7fcb8708de5232516bee5201b5bf701e75ce11dea846baef",
        Fraction(1528234017, 1000000),
    ),
}


@dataclass(frozen=True)
class SwitchedSystem:
    """x+ = A_t x with A_t in the hull of the vertices, and the rate rho^2 of a quadratic norm."""

    title: str
    vertices: list[Matrix]
    rate: Fraction


def _scaled(divisor: int, *rows: list[int]) -> Matrix:
    return [[Fraction(entry, divisor) for entry in row] for row in rows]


SYSTEMS = {
    "switched": SwitchedSystem(
        "two vertices of norms above 1",
        [
            _scaled(
                1000,
                [-267, -42, 213, -122, 610],
                [-113, -247, -17, -554, -271],
                [85, 159, 314, -163, 509],
                [-167, 571, -17, -78, 208],
                [356, 146, -137, -514, -367],
            ),
            _scaled(
                1000,
                [-426, -343, 266, -59, 372],
                [-83, -125, -50, -107, -321],
                [288, 321, 467, -484, 576],
                [-29, 447, -62, -136, 102],
                [213, -197, -160, -436, -215],
            ),
        ],
        Fraction(98, 100) ** 2,
    ),
    "reflections": SwitchedSystem(
        "two reflections in one metric, times 9/10",
        [
            _scaled(10, [15, 24, 60], [4, 25, 40], [-4, -16, -31]),
            _scaled(10, [-7, -24, -64], [20, 39, 80], [-8, -12, -23]),
        ],
        Fraction(9, 10) ** 2,
    ),
}


@dataclass(frozen=True)
class Slope:
    """f' <= bound on [0, 8], attained up to the gap."""

    function: Tree
    bound: Fraction
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(8)
    gap: Fraction = Fraction(1, 10**11)

    @property
    def slope(self) -> Tree:
        """f', by the rules of differentiation."""
        return derivative(self.function)


SLOPES = {
    "gelu": Slope(
        ["*", "x", ["/", ["+", 1, ["erf", ["/", "x", ["sqrt", 2]]]], 2]],
        Fraction(1128904145187, 10**12),
    ),
    "silu": Slope(["/", "x", ["+", 1, ["exp", ["*", -1, "x"]]]], Fraction(109983932013, 10**11)),
}
