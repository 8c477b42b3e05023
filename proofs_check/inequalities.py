"""Inequalities with a certificate: performance estimation, Lipschitz blocks, contraction in a quadratic norm.

Each check refutes what the certificate's own witness shows to be false, then checks the proof, and at last
that what was proved is the claim of the registry and none with a weaker constant.
"""

from __future__ import annotations

from fractions import Fraction

from proofs_check import assembler
from proofs_check.certificate import Refuted, Undecided, among, integer, integers, items, rational, vector
from proofs_check.instances import BLOCKS, SYSTEMS, network
from proofs_check.rational import combination, inner, matrix, product, quadratic, semidefinite, transpose

MOST_LETTERS = 64  # of a word: the numbers of a product grow with it


def _require_semidefinite(a: list[list[Fraction]], what: str, strictly: bool = False) -> None:
    rank, direction = semidefinite(a)
    if direction is not None:
        raise Undecided(f"{what} is not positive semidefinite: v'Mv = {quadratic(a, direction)}")
    if strictly and rank < len(a):
        raise Undecided(f"{what} is singular")


def _claimed(data: dict, statement: str, tight: bool) -> str:
    """Add "(tight)" to the statement where that is claimed and the witness attains the constant."""
    if among(data["tight"], 0, 1) and not tight:
        raise Undecided("the constant is claimed to be tight, and the witness does not attain it")
    return statement + (" (tight)" if data["tight"] else "")


def performance(name: str, data: dict) -> tuple[str, str]:
    """Check that the claim is a sum of valid inequalities, with weights >= 0, and a semidefinite form."""
    worst = assembler.SETTINGS[name]
    given = data["parameters"].items()
    parameters = {k: rational(v) if type(v) is list else among(v, 1, 60) for k, v in given}
    rates = vector(data["rates"])
    setting = worst.build(rates, **parameters)
    vectors = {tuple(name.split(":")): vector(v) for name, v in data["witness"]["vectors"].items()}
    values = {name: rational(v) for name, v in data["witness"]["values"].items()}

    def gap(rates: list[Fraction]) -> Fraction:
        return assembler.evaluate(worst.build(rates, **parameters).claim, vectors, values)

    here, tight = gap(rates), False
    if all(assembler.evaluate(form, vectors, values) >= 0 for form in setting.inequalities.values()):
        if here < 0:
            raise Refuted(f"{setting.statement} fails by {-here} at {data['witness']}")
        moved = [gap([r + (i == j) for j, r in enumerate(rates)]) for i in range(len(rates))]
        tight = here == 0 and all(other > 0 if worst.upper else other < 0 for other in moved)
    multipliers = {name: rational(pair) for name, pair in data["multipliers"].items()}
    if any(m < 0 for m in multipliers.values()):
        raise Undecided("a multiplier is negative")
    rest = assembler.add((1, setting.claim), *((-m, setting.inequalities[k]) for k, m in multipliers.items()))
    if any(block == "f" for block, *_ in rest):
        raise Undecided("the function values do not cancel")
    for block, names in assembler.blocks(rest).items():
        _require_semidefinite(assembler.gram(rest, block, names), f"the Gram form of block {block}")
    if rates != worst.rates(**parameters):
        raise Undecided(f"{setting.statement} is weaker than the theorem")
    return _claimed(data, setting.statement, tight), f"{len(multipliers)} multipliers and an exact Gram form"


def lipschitz(name: str, data: dict) -> tuple[str, str]:
    """X3: L^2|x|^2 - |c W1 W0 x + r W1 z|^2 >= sum_i t_i ((W0 x)_i^2 - z_i^2), slopes in [c - r, c + r].

    The z are eliminated by a Schur complement, for which `reciprocals` bound 1 / t from above.
    """
    w0, w1, scale = integers(data["inner"]), integers(data["outer"]), rational(data["scale"])
    bound, (low, high) = rational(data["bound"]), vector(data["slopes"])
    n, d, m, c, r = len(w0), len(w0[0]), len(w1), (low + high) / 2, (high - low) / 2
    if len(w1[0]) != n:
        raise Undecided(f"W0 has {n} rows, and W1 {len(w1[0])} columns")
    block = BLOCKS[name]
    if network(w0, w1, data["scale"], data["slopes"]) != block.network:
        raise Undecided(f"the network is not that of {block.title}")
    statement = (
        f"{block.title}: W1 phi(W0 x + b), {d} -> {n} -> {m}, integers times {scale}, "
        f"slopes in [{low}, {high}], is sqrt({bound})-Lipschitz"
    )
    slopes, v = vector(data["witness"]["slopes"]), vector(data["witness"]["direction"])
    if len(slopes) != n or len(v) != d or any(not low <= s <= high for s in slopes):
        raise Undecided("the witness needs a slope in range for each neuron, and a direction")
    moved = [s * inner(row, v) for s, row in zip(slopes, w0, strict=True)]
    grown, length = sum(inner(row, moved) ** 2 for row in w1) * scale**4, bound * inner(v, v)
    if grown > length:
        raise Refuted(f"{statement} fails with the slopes {data['witness']['slopes']} along {v}")
    unit, t, reciprocals = rational(data["unit"]), items(data["multipliers"]), items(data["reciprocals"])
    if unit <= 0:
        raise Undecided(f"the unit of the multipliers has to be > 0, got {unit}")
    if len(t) != n or any(
        integer(a) <= 0 or unit**2 * a * integer(b) < 1 for a, b in zip(t, reciprocals, strict=True)
    ):
        raise Undecided("every multiplier has to be > 0, and its reciprocal at least 1 / multiplier")
    weighted = product(transpose([[x * a for x in row] for row, a in zip(w0, t, strict=True)]), w0)
    back = product([[x * b for x, b in zip(row, reciprocals, strict=True)] for row in w1], transpose(w1))
    cross = [[c * scale**2 * entry for entry in row] for row in product(w1, w0)]
    left = [[bound * (i == j) - scale**2 * unit * weighted[i][j] for j in range(d)] for i in range(d)]
    right = [[(i == j) - (r * scale) ** 2 * unit * back[i][j] for j in range(m)] for i in range(m)]
    top = [a + b for a, b in zip(left, transpose(cross), strict=True)]
    _require_semidefinite(top + [a + b for a, b in zip(cross, right, strict=True)], "the LMI")
    if bound > block.bound:
        raise Undecided(f"{statement} is weaker than the claim, L^2 <= {block.bound}")
    return _claimed(data, statement, grown == length > 0), "an exact linear matrix inequality"


def contraction(name: str, data: dict) -> tuple[str, str]:
    """T41: P > 0, and rate P - A_i' P A_i >= 0 at every vertex A_i; rate = rho^2."""
    vertices = [combination((rational(v["scale"]), integers(v["rows"]))) for v in items(data["vertices"])]
    metric, rate = matrix(integers(data["metric"])), rational(data["rate"])
    n, system = len(metric), SYSTEMS[name]
    if not vertices or any(len(a) != n or len(a[0]) != n for a in vertices):
        raise Undecided(f"the vertices have to be matrices {n} x {n}, at least one")
    if vertices != system.vertices:
        raise Undecided(f"the vertices are not those of {system.title}")
    statement = (
        f"{system.title}, A_t in the hull of {len(vertices)} matrices {n} x {n}: "
        f"||A_t x||_P^2 <= {rate} ||x||_P^2"
    )
    word, v = (
        [among(letter, 0, len(vertices) - 1) for letter in items(data["witness"]["word"])],
        vector(data["witness"]["vector"]),
    )
    if len(word) > MOST_LETTERS:
        raise Undecided(f"the word of the witness has {len(word)} letters, at most {MOST_LETTERS} are read")
    image = v
    for letter in word:
        image = [inner(row, image) for row in vertices[letter]]
    grown, length = inner(image, v), inner(v, v)
    returned = length > 0 and all(length * y == grown * x for x, y in zip(v, image, strict=True))
    if returned and grown**2 > rate ** len(word) * length**2:
        raise Refuted(f"{statement} fails: the product {word} maps {v} to {grown / length} times itself")
    _require_semidefinite(metric, "P", strictly=True)
    for i, a in enumerate(vertices):
        lyapunov = combination((rate, metric), (-1, product(transpose(a), metric, a)))
        _require_semidefinite(lyapunov, f"the Lyapunov inequality of vertex {i}")
    if rate > system.rate:
        raise Undecided(f"{statement} is weaker than the claim, a rate of {system.rate}")
    tight = returned and len(word) > 0 and grown**2 == rate ** len(word) * length**2
    return _claimed(data, statement, tight), "exact Lyapunov inequalities"
