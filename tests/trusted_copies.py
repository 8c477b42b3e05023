"""Copies of the trusted base with another text for one module, and what has to hold of every copy."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from fractions import Fraction as F
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mpmath
import pytest
from certificate_corpus import SOUND, forged, load

import proofs_check
from proofs_check.certificate import seal
from proofs_check.verifier import verify

FOLDER = Path(proofs_check.__file__).parent
# Each imports only from those before it.
ORDER = (
    *("rational", "intervals", "expressions", "certificate", "assembler", "instances", "identities"),
    *("enumerations", "evaluations", "claims", "inequalities", "replay", "verifier"),
)


@cache
def source(name: str) -> str:
    return (FOLDER / f"{name}.py").read_text()


def copies(name: str = ORDER[0], text: str | None = None) -> SimpleNamespace:
    """The trusted modules, with another text for one; those that come before it are not loaded anew."""
    kept = ORDER[: ORDER.index(name)] if text is not None else ()
    loaded = {other: getattr(plain(), other) for other in kept}
    full = [f"proofs_check.{other}" for other in ORDER]
    before = {other: sys.modules[other] for other in full}
    try:
        for other in ORDER:
            module = loaded.get(other) or ModuleType(f"proofs_check.{other}")
            sys.modules[module.__name__] = module
            setattr(proofs_check, other, module)
            if other not in loaded:
                code = text if text is not None and other == name else source(other)
                exec(compiled(other, code), module.__dict__)
                loaded[other] = module
    finally:
        for other, module in before.items():
            sys.modules[other] = module
            setattr(proofs_check, other.removeprefix("proofs_check."), module)
    return SimpleNamespace(**loaded)


@cache
def compiled(name: str, text: str):
    return compile(text, f"{name}.py", "exec")


@cache
def plain() -> SimpleNamespace:
    return copies()


# What has to hold of a copy.


def enclosures(m: SimpleNamespace) -> None:
    i = m.intervals
    box, half = i.enclose, F(1, 2)
    for x in (F(0), F(1, 3), F(-7, 5), half, F(2), F(-11, 2), F(8), F(17), F(-17), F(1, 2**70)):
        for function, value in ((i.exp, mpmath.exp), (i.erf, mpmath.erf)):
            contains(function(box(x)), value(real(x)), F(max(1, int(mpmath.exp(real(x))) * 64), 2**112))
        contains(i.sqrt(box(abs(x))), mpmath.sqrt(real(abs(x))), F(1, 2**60))
        wide = i.exp(box(x, x + 1)), i.erf(box(x, x + 1)), i.sqrt(box(abs(x), abs(x) + 1))
        for at in (x, x + half, x + 1):
            assert wide[0].low <= rational(mpmath.exp(real(at))) <= wide[0].high
            assert wide[1].low <= rational(mpmath.erf(real(at))) <= wide[1].high
        assert wide[2].low <= rational(mpmath.sqrt(real(abs(x) + half))) <= wide[2].high
    contains(i.pi(), +mpmath.pi, F(1, 2**120))
    assert i.exp(box(-(10**20))).low == 0
    assert i.erf(box(10**20)).low < i.erf(box(10**20)).high == 1
    for bad, words in (
        (lambda: i.Interval(1, 0), "lo <= hi"),
        (lambda: i.sqrt(box(-1)), "an interval >= 0"),
        (lambda: i.exp(box(5000)), "up to exp"),
    ):
        with pytest.raises(ValueError, match=words):
            bad()
    with pytest.raises(ZeroDivisionError, match="contains zero"):
        box(1) / box(0, 1)


def series(m: SimpleNamespace) -> None:
    """With few terms the remainder is what makes the enclosures hold."""
    i = m.intervals
    terms, small = i.TERMS, i.SMALL
    try:
        for i.TERMS in (2, 3, 5):
            for x in (F(1, 2), F(-1, 2), F(49, 100), F(3), F(-3)):
                i._exp.cache_clear()
                contains(i.exp(i.enclose(x)), mpmath.exp(real(x)), F(10**6))
            i.pi.cache_clear()
            contains(i.pi(), +mpmath.pi, F(1))
        i.TERMS = terms
        i.pi.cache_clear()
        for i.SMALL in (1 << 132, 1 << 124, 1 << 120, 1 << 100):
            for x in (F(1, 3), F(1), F(-2), F(3)):
                i._exp.cache_clear()
                i._erf.cache_clear()
                contains(i.erf(i.enclose(x)), mpmath.erf(real(x)), F(1))
    finally:
        i.TERMS, i.SMALL = terms, small
        for function in (i._exp, i._erf, i.pi):
            function.cache_clear()


def rounding(m: SimpleNamespace) -> None:
    i = m.intervals
    ulp, less = i.Interval(1, 1), i.Interval(-1, -1)
    assert (ulp * ulp, less * ulp) == (i.Interval(0, 1), i.Interval(-1, 0))
    assert (ulp.over(2), less.over(2)) == (i.Interval(0, 1), i.Interval(-1, 0))
    assert i.enclose(F(1, 3)) == i.Interval(i.ONE // 3, i.ONE // 3 + 1)
    assert i.enclose(F(-1, 3)) == i.Interval(-(i.ONE // 3) - 1, -(i.ONE // 3))
    assert i.enclose(1) / i.enclose(3) == i.enclose(F(1, 3))
    assert i.enclose(-1, 2) * i.enclose(-3, 1) == i.enclose(-6, 3)
    assert i.enclose(1, 2) / i.enclose(-4, -2) == i.enclose(-1, F(-1, 4))
    assert i.enclose(1, 2) - i.enclose(0, 5) == i.enclose(-4, 2)
    assert i.enclose(1, 2).hull(i.enclose(-1, 0)) == i.enclose(-1, 2)
    assert (i.enclose(F(1, 2), 3).low, i.enclose(F(1, 2), 3).high) == (F(1, 2), 3)
    assert (i.sqrt(i.enclose(2)).lo + 1, i.sqrt(ulp).lo) == (i.sqrt(i.enclose(2)).hi, 1 << 64)


def jets(m: SimpleNamespace) -> None:
    i, e = m.intervals, m.expressions
    x, at = mpmath.mpf(2) / 3, i.Jet(i.enclose(F(2, 3)), i.enclose(1))
    cases: list[tuple[object, Callable]] = [
        (["*", "x", "x", "x"], lambda t: t**3),
        (["/", ["+", 1, "x"], ["+", 3, ["*", "x", "x"]]], lambda t: (1 + t) / (3 + t * t)),
        (["exp", ["*", -2, "x"]], lambda t: mpmath.exp(-2 * t)),
        (["erf", ["*", 2, "x"]], lambda t: mpmath.erf(2 * t)),
        (["sqrt", ["+", 1, ["*", "x", "x"]]], lambda t: mpmath.sqrt(1 + t * t)),
        (["*", ["pi"], "x"], lambda t: mpmath.pi * t),
    ]
    for tree, function in cases:
        jet = e.over_jet(tree, at)
        contains(jet.value, function(x), F(1, 2**100))
        slope, enclosed = mpmath.diff(function, x), e.over_jet(e.derivative(tree), at).value
        assert abs(rational(slope) - jet.slope.low) < F(1, 10**15)
        assert abs(jet.slope.low - enclosed.low) < F(1, 2**100)
        assert jet.slope.hi - jet.slope.lo < 1 << 40
    for tree, low, high, top in (
        (["+", "x", ["*", -1, "x", "x"]], F(1, 4), F(3, 4), F(1, 4)),
        (["*", "x", "x"], F(-1), F(2), F(4)),
        (["*", -1, ["+", "x", -1], ["+", "x", -1]], F(0), F(4), F(0)),
        (["*", 3, "x"], F(0), F(1), F(3)),
    ):
        bound = i.bound_above(lambda jet, tree=tree: e.over_jet(tree, jet), low, high)
        assert top <= bound <= top + 4 * (high - low)
    narrow = i.bound_above(lambda jet: jet + -(jet * jet), F(499, 1000), F(501, 1000))
    assert F(1, 4) <= narrow < F(1, 4) + F(1, 10**5)
    assert (-i.Jet(F(1), F(2))).slope == -2


def algebra(m: SimpleNamespace) -> None:
    r = m.rational
    a, singular = r.matrix([[2, 1], [1, 1]]), r.matrix([[1, 2, 3], [2, 4, 6], [0, 1, 1]])
    assert r.product(a, [[1], [3]]) == [[5], [4]]
    assert r.product([[1, 2]], [[3], [4]], [[2, 0]]) == [[22, 0]]
    assert r.combination((2, a), (-1, r.identity(2))) == [[3, 2], [2, 1]]
    assert r.inner([1, F(1, 2)], [3, 4]) == 5
    assert r.quadratic(a, [1, -1]) == 1
    assert r.solve(a, r.identity(2)) == [[1, -1], [-1, 2]]
    assert r.solve(r.matrix([[0, 1], [1, 0]]), [[5], [7]]) == [[7], [5]]
    assert (r.rank(singular), r.rank(r.matrix([[0, 0], [0, 0]])), r.rank(a)) == (2, 0, 2)
    assert r.reduced(singular)[1] == [0, 1]
    for bad, words in (
        (lambda: r.inner([1], [1, 2]), "no inner product"),
        (lambda: r.product([[1, 2, 3]], [[1], [2]]), "factors do not fit"),
        (lambda: r.combination((1, [[1, 2]]), (1, [[1, 2, 3]])), "terms do not fit"),
        (lambda: r.combination((1, [[1]]), (1, [[1], [2]])), "terms do not fit"),
        (lambda: r.semidefinite(r.matrix([[1, 2]])), "square and symmetric"),
        (lambda: r.semidefinite(r.matrix([[1, 2], [3, 9]])), "square and symmetric"),
        (lambda: r.transpose([[1, 2], [3]]), "zip"),
    ):
        with pytest.raises(ValueError, match=words):
            bad()
    with pytest.raises(ZeroDivisionError, match="singular"):
        r.solve(singular, r.identity(3))
    rng = random.Random(0)
    forms = [[[0, 1], [1, 0]], [[0, 0], [0, -1]], [[0, 1], [1, 5]], [[-1]], [[1, 2], [2, 3]], [[F(1, 3)]]]
    forms += [[[1, 1, 0], [1, 1, 1], [0, 1, 1]], [[0, 0, 0], [0, 1, 1], [0, 1, 1]]]
    for n in (1, 2, 3, 4):
        for _ in range(6):
            root = [
                [F(rng.randint(-3, 3), rng.randint(1, 2)) for _ in range(n)] for _ in range(max(1, n - 1))
            ]
            gram = r.product(r.transpose(root), root)
            forms += [gram, r.combination((1, gram), (F(-1, 10**9), r.identity(n)))]
            forms.append(r.combination((1, gram), (1, r.identity(n))))
    for form in forms:
        rank, direction = r.semidefinite(form)
        minors = [principal(form, rows) for rows in subsets(len(form))]
        assert (direction is None) is (min(minors) >= 0)
        assert (rank == r.rank(form)) if direction is None else r.quadratic(form, direction) < 0


def subsets(n: int) -> list[list[int]]:
    return [[i for i in range(n) if chosen >> i & 1] for chosen in range(1, 1 << n)]


def principal(form: list, rows: list[int]) -> F:
    """A principal minor, by cofactors; a form is semidefinite if none of them is below zero."""

    def det(a: list) -> F:
        if not a:
            return F(1)
        return sum(
            ((-1) ** j * F(a[0][j]) * det([row[:j] + row[j + 1 :] for row in a[1:]]) for j in range(len(a))),
            F(0),
        )

    return det([[form[i][j] for j in rows] for i in rows])


def trees(m: SimpleNamespace) -> None:
    e = m.expressions
    a, b, point = e.symbol("a"), e.symbol("b"), {"a": F(3), "b": F(-5, 2)}
    tree = ["/", ["+", ["^", "a", 3], ["*", -2, "b"], 1], ["+", ["*", "a", "b"], 7, -1]]
    value = (a**3 - 2 * b + 1) / (a * b + 6)
    assert e.expand(tree) == value
    assert value == value + 0 == 1 * value == value - 0 == value / 1
    assert value != value + 1
    assert value != 1
    assert e.at_point(tree, point) == F(33) / F(-3, 2)
    assert value.where(point) == e.quotient(-22)
    assert (1 - a, 2 / a, F(1, 2) + a) == (
        e.expand(["+", 1, ["*", -1, "a"]]),
        e.expand(["/", 2, "a"]),
        (2 * a + 1) / 2,
    )
    assert (a / b).along({"a": b, "b": 1}) == 1 - a / b**2
    assert (a**3).along({"a": 1}) == 3 * a**2
    assert e.variables(tree) == {"a", "b"}
    assert e.text(tree) == "(a^3 + (-2 * b) + 1)/((a * b) + 7 + -1)"
    for nested, words in (
        (["/", 1, ["/", 2, "x"]], "1/(2/x)"),
        (["/", ["/", 1, 2], "x"], "(1/2)/x"),
        (["^", ["/", "x", "y"], 2], "(x/y)^2"),
        (["^", ["^", "x", 2], 3], "(x^2)^3"),
        (["^", -1, 2], "(-1)^2"),
        (["exp", ["pi"]], "exp(pi)"),
    ):
        assert e.text(nested) == words
    for bad, words in (
        (True, "not a rational"),
        (["^", "x", -1], "not a rational"),
        (["^", "x", 10], "not a rational"),
        (["^", "x", True], "not a rational"),
        (["+"], "not a rational"),
        (["*"], "not a rational"),
        ("x y", "not a variable's name"),
        ("x\n", "not a variable's name"),
        (["/", "x", ["+", "a", ["*", -1, "a"]]], "denominator is zero"),
        (["*", ["^", ["+", *"abcde"], 7], ["^", ["+", *"abcdf"], 7]], "too large"),
        (["^", ["^", ["^", ["^", 9, 9], 9], 9], 9], "too large"),
    ):
        with pytest.raises(ValueError, match=words):
            e.expand(bad)
    for function in (e.over_jet, lambda tree, _: e.derivative(tree)):
        with pytest.raises(ValueError, match="not a function of x"):
            function("y", None)


def forms(m: SimpleNamespace) -> None:
    """The inequalities by their names, at numbers, from the definition of the class."""
    a = m.assembler
    vectors = {(block, name): [F(n + 2)] for n, (block, name) in enumerate(_symbols())}
    values = {"f": F(5), "fy": F(7), "f0": F(3), "f1": F(4)}

    def at(form: dict) -> F:
        return a.evaluate(form, vectors, values)

    def between(i: tuple, j: tuple, mu: int) -> F:
        """f_i - f_j - <g_j, x> - (|g|^2 + mu |x|^2 - 2 mu <g, x>) / (2 - 2 mu), blocks apart."""
        x, g = ([p - q for p, q in zip(i[k], j[k], strict=True)] for k in (0, 1))
        dot = sum(p * q for p, q in zip(j[1], x, strict=True))
        squares = sum(q * q + mu * p * p - 2 * mu * p * q for p, q in zip(x, g, strict=True))
        return i[2] - j[2] - dot - squares / (2 - 2 * mu)

    v = {key: value for key, (value,) in vectors.items()}
    px, qx, pg, qg, ph, qh = (v[key] for key in _symbols()[:6])
    star = (F(0), F(0)), (F(0), F(0)), F(0)
    first = (px, qx), (v["P", "g0"], v["Q", "g0"]), F(3)
    second = (px - v["P", "g0"] / 2, qx), (v["P", "g1"], v["Q", "g1"]), F(4)
    half = F(1, 2)
    for rates in ([half], [half, half]):
        setting = a.gradient_descent(rates, half, 1)
        one = len(rates) == 1
        points = {
            k: tuple((*p[:1], F(0)) if one and n < 2 else p for n, p in enumerate(point))
            for k, point in (("*", star), ("0", first), ("1", second))
        }
        wanted = {f"{i}>{j}": between(points[i], points[j], 0) for i in "*01" for j in "*01" if i != j}
        assert {k: at(form) for k, form in setting.inequalities.items()} == wanted
        assert at(setting.claim) == (px**2 + (0 if one else qx**2)) / 2 - 4
    y = (F(0), qx), (pg, qg), F(5)
    setting = a.gap_above([half])
    assert {k: at(f) for k, f in setting.inequalities.items()} == {
        "*>y": between(star, y, -1),
        "y>*": between(y, star, -1),
    }
    assert at(setting.claim) == qx**2 / 2 - 5
    setting = a.gap_below([half])
    assert [at(f) for f in setting.inequalities.values()] == [5 - (px**2 + qx**2) / 2]
    assert at(setting.claim) == 5 - qx**2 / 2
    x, moved = ((F(0), F(0)), (F(0), qg), F(5)), ((F(0), -qg), (ph, qh), F(7))
    setting = a.sandwich_below([half])
    wanted = {"x>y": between(x, moved, -1), "y>x": between(moved, x, -1), "f >= f* at y": F(7)}
    assert {k: at(f) for k, f in setting.inequalities.items()} == wanted
    assert at(setting.claim) == 5 - qg**2 / 2
    setting = a.sandwich_above([half])
    assert [at(f) for f in (*setting.inequalities.values(), setting.claim)] == [qg**2 / 2 - 5] * 2
    x, moved = ((F(0), F(0)), (pg, qg), F(5)), ((-pg, F(0)), (ph, qh), F(7))
    setting = a.subspace_descent([half])
    assert {k: at(f) for k, f in setting.inequalities.items()} == {
        "x>y": between(x, moved, -1),
        "y>x": between(moved, x, -1),
    }
    assert at(setting.claim) == 5 - 7 - pg**2 / 2
    form = a.dot(
        a.add((2, a.symbol("P", "a")), (1, a.symbol("Q", "a"))),
        a.add((1, a.symbol("P", "b")), (3, a.symbol("P", "a"))),
    )
    assert (a.gram(form, "P", ["a", "b"]), a.blocks(form)) == ([[6, 1], [1, 0]], {"P": ["a", "b"]})
    with pytest.raises(ValueError, match="one rate or two"):
        a.gradient_descent([half] * 3, half, 1)
    assert a.descent_rates(half, 3, two_blocks=True) == [F(1, 8), half]


def _symbols() -> list[tuple[str, str]]:
    names = [(block, name) for name in "xgh" for block in "PQ"]
    return names + [(block, name) for name in ("g0", "g1") for block in "PQ"]


def small_cases(m: SimpleNamespace) -> None:
    n = m.enumerations
    for name, first, last, count, wrong in (
        ("coordinate_projectors", 1, 4, 10, F(99, 100)),
        ("expected_gap", 1, 4, 10, F(99, 100)),
        ("quadratic_threshold", 1, 3, 14, F(11, 10)),
        ("chi_square_tails", 2, 6, 54, F(1, 9)),
        ("gradient_capture", 4, 8, 54, F(1, 9)),
        ("hoeffding", 1, 4, 62, F(3)),
        ("maurer", 1, 6, 6, F(39, 10)),
        ("two_directions", 1, 1, 26, F(9, 10)),
        ("sign_moments", 1, 2, 4, F(11, 10)),
        ("kernel_variance", 1, 1, 1, F(11, 10)),
    ):
        asked = n.ENUMERATIONS[name]
        found = list(asked.cases(first, last, F(asked.constant)))
        assert (len(found), {holds for _, holds in found}) == (count, {True}), name
        assert False in (holds for _, holds in asked.cases(first, 2 * last, wrong)), name
    tails = dict(n.chi_square_tails(2, 2, F(1)))
    assert set(tails) == {f"d=2, eps={F(k, 10)}, {side}" for k in range(1, 10) for side in ("above", "below")}
    box = m.intervals.enclose
    at_most = [
        n._at_most(box(*a), box(*b)) for a, b in (((0, 1), (1, 2)), ((3, 4), (1, 2)), ((0, 2), (1, 3)))
    ]
    assert at_most == [True, False, None]


def corpus(m: SimpleNamespace) -> None:
    """What is sound and what is forged come to what they come to, in the same words."""
    for text, wanted in golden():
        verdict = m.verifier.verify(text)
        found = (verdict.outcome.value, verdict.theorem, verdict.claim, verdict.status)
        assert found == wanted[:4]
        assert wanted[4] in verdict.reason or wanted[0] == "VERIFIED"


@cache
def golden() -> list[tuple[str, tuple]]:
    """Certificates and what they come to, forged ones and the quickest first."""
    rows = [(json.dumps(load(name)), "VERIFIED", "") for name in SOUND]
    rows += [(text, outcome, reason) for _, text, outcome, reason in forged()]
    timed = []
    for text, outcome, reason in rows:
        began = time.process_time()
        verdict = verify(text)
        wanted = (outcome, verdict.theorem, verdict.claim, verdict.status, reason)
        timed.append((outcome == "VERIFIED", time.process_time() - began, text, wanted))
    return [(text, wanted) for *_, text, wanted in sorted(timed)]


def damage(m: SimpleNamespace) -> None:
    v = m.verifier
    for text in ("", "null", "[]", "[" * 100_000, b"\xff\xfe", '{"a": 1, "a": 2}', "NaN", "9" * 5000):
        verdict = v.verify(text)
        assert verdict.outcome.value == "UNDECIDED"
        assert verdict.reason
        assert verdict.theorem == "?"
    assert v.verify_file(FOLDER / "absent.json").outcome.value == "UNDECIDED"
    assert v.verify(json.dumps(seal("T\u00e9", "identity", {}))).reason.isascii()
    assert m.certificate.shown("a\nb\x1b\u202e") == r"a\nb\x1b\u202e"
    assert m.certificate.shown("x" * 500) == "x" * 400 + "..."
    body = load("T41-tight")
    word = {"word": [1, 0], "vector": [[1, 1], [0, 1], [0, 1]]}
    assert v.verify(
        json.dumps(seal("T41", "contraction", body["data"] | {"witness": word, "tight": 0}))
    ).claim


def spoiled(m: SimpleNamespace) -> None:
    """An identity that holds with a sign spoiled is no proof."""
    name, table = "telescoping", m.evaluations.EVALUATIONS
    kept = table[name]
    table[name] = m.evaluations.Evaluation(lambda draw, sign, **sizes: ([(1, 1)], 1), kept.sizes)
    try:
        with pytest.raises(m.certificate.Undecided, match="with the sign 1"):
            m.replay.evaluation(name, {"sign": -1, "rounds": 2, "parameters": kept.sizes})
    finally:
        table[name] = kept


# What has to hold, and the last of the modules in ORDER that it calls.
CHECKS: dict[Callable[[SimpleNamespace], None], str] = {
    algebra: "rational",
    rounding: "intervals",
    enclosures: "intervals",
    series: "intervals",
    trees: "expressions",
    jets: "expressions",
    forms: "assembler",
    small_cases: "enumerations",
    spoiled: "replay",
    damage: "verifier",
    corpus: "verifier",
}


def contains(interval, value, width: F) -> None:
    assert interval.low <= rational(value) <= interval.high
    assert interval.high - interval.low <= width


def real(x: F):
    return mpmath.mpf(x.numerator) / x.denominator


def rational(value) -> F:
    sign, mantissa, exponent, _ = mpmath.mpf(value)._mpf_
    return (-1) ** sign * F(int(mantissa)) * F(2) ** exponent


def noticed(m: SimpleNamespace, name: str) -> str:
    """The check that fails with another text of a module, or nothing."""
    with mpmath.workdps(60):
        for check in (check for check, last in CHECKS.items() if ORDER.index(last) >= ORDER.index(name)):
            try:
                check(m)
            except Exception as error:
                return f"{check.__name__}: {type(error).__name__}"
            except pytest.fail.Exception:
                return check.__name__
    return ""
