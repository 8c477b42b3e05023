"""The trusted base with one thing wrong in its source: `trusted_copies` has to notice every such mutant.

Besides those written by hand, every guard (`if ...: raise ...`) of every trusted module is left out once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import chain

import pytest
from trusted_copies import ORDER, copies, noticed, plain, source

from proofs_check.catalogue import TRUSTED


def guards(name: str) -> Iterator[tuple[str, str]]:
    """A module with every `if ...: raise ...` left out, once each: (where, text)."""
    for chosen in range(_count(name)):
        tree = ast.parse(source(name))
        guard = [node for node in ast.walk(tree) if _is_guard(node)][chosen]
        where = f"line {guard.lineno}: {ast.unparse(guard.test)}"
        guard.test = ast.Constant(False)
        yield where, ast.unparse(tree)


def _count(name: str) -> int:
    return sum(map(_is_guard, ast.walk(ast.parse(source(name)))))


def _is_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and len(node.body) == 1 and isinstance(node.body[0], ast.Raise)


WRITTEN: list[tuple[str, str, str]] = [
    # Intervals.
    ("intervals", "self.lo + other.lo, self.hi + other.hi", "self.lo + other.lo, self.hi"),
    ("intervals", "Interval(-self.hi, -self.lo)", "Interval(-self.hi, -self.hi)"),
    ("intervals", "min(ends) >> BITS, -(-max(ends) >> BITS)", "min(ends) >> BITS, max(ends) >> BITS"),
    (
        "intervals",
        "for a in (self.lo, self.hi) for b in (other.lo, other.hi)]\n        return Interval(min(ends) >>",
        "for a, b in ((self.lo, other.lo), (self.hi, other.hi))]\n        return Interval(min(ends) >>",
    ),
    ("intervals", "floor(min(ends)), ceil(max(ends))", "floor(min(ends)), floor(max(ends))"),
    ("intervals", "floor(min(ends)), ceil(max(ends))", "ceil(min(ends)), ceil(max(ends))"),
    ("intervals", "self.lo // n, -(-self.hi // n)", "self.lo // n, self.hi // n"),
    ("intervals", "max(self.hi, other.hi)", "min(self.hi, other.hi)"),
    ("intervals", "floor(Fraction(low) * ONE), ceil(", "floor(Fraction(low) * ONE), floor("),
    ("intervals", "isqrt(x.hi << BITS) + 1", "isqrt(x.hi << BITS)"),
    ("intervals", "enclose(sum(terms[:-1])).hull(enclose(sum(terms)))", "enclose(sum(terms))"),
    ("intervals", "TERMS = 40", "TERMS = 20"),
    ("intervals", "enclose(16) * arctan(5) - enclose(4)", "enclose(16) * arctan(5) - enclose(3)"),
    ("intervals", "total = total + Interval(-rest, rest)", "total = total"),
    (
        "intervals",
        "rest = 2 * max(abs(term.lo), abs(term.hi))",
        "rest = max(abs(term.lo), abs(term.hi)) // 4",
    ),
    (
        "intervals",
        "for _ in range(k):\n        total = total * total",
        "for _ in range(k - 1):\n        total = total * total",
    ),
    ("intervals", "_exp(x.lo).lo, _exp(x.hi).hi", "_exp(x.lo).lo, _exp(x.lo).hi"),
    ("intervals", "_erf(x.lo).lo, _erf(x.hi).hi", "_erf(x.lo).lo, _erf(x.lo).hi"),
    ("intervals", "total.lo, total.hi + term.hi", "total.lo, total.hi"),
    ("intervals", "2 * square.hi > enclose(2 * n + 3).lo", "False"),
    ("intervals", "return -_erf(-numerator)", "return _erf(-numerator)"),
    ("intervals", "Interval(ONE - 1, ONE)", "Interval(ONE, ONE)"),
    ("intervals", "self.slope * other.value + self.value * other.slope", "self.slope * other.value"),
    ("intervals", "(self.slope - ratio * other.slope) / other.value", "self.slope / other.value"),
    ("intervals", "value * u.slope", "u.slope"),
    ("intervals", "exp(-(u.value * u.value)) * u.slope", "exp(u.value * u.value) * u.slope"),
    ("intervals", "u.slope / (value + value)", "u.slope / value"),
    ("intervals", "over.slope * (box - enclose(mid))", "over.slope * enclose(0)"),
    ("intervals", "over = f(Jet(box, enclose(1)))", "over = f(Jet(enclose(mid), enclose(1)))"),
    ("intervals", "mid = (low + high) / 2", "mid = low"),
    # Rational.
    (
        "rational",
        "sum((c * a[i][j] for c, a in terms), Fraction())",
        "sum((a[i][j] for c, a in terms), Fraction())",
    ),
    ("rational", "[entry / a[top][column] for entry in a[top]]", "a[top][:]"),
    ("rational", "if i != top and other[column]", "if i > top and other[column]"),
    ("rational", "pivots[:n] != list(range(n))", "False"),
    ("rational", "if pivot < 0:\n            return", "if False:\n            return"),
    ("rational", "if j is not None:", "if False:"),
    (
        "rational",
        "(pivot * s[i][j] - factor * s[k][j]) // previous",
        "(pivot * s[i][j] + factor * s[k][j]) // previous",
    ),
    ("rational", "// previous", "// pivot"),
    ("rational", "range(k + 1, n) if s[k][j]", "range(k + 2, n) if s[k][j]"),
    ("rational", "a[i][j] != a[j][i]", "False"),
    ("rational", "Fraction(-1 - s[j][j], 2 * s[k][j])", "Fraction(1 - s[j][j], 2 * s[k][j])"),
    ("rational", "return len(pivots), None", "return n, None"),
    # Expressions.
    (
        "expressions",
        "_times(self.above, other.below) == _times(other.above, self.below)",
        "self.above == other.above",
    ),
    (
        "expressions",
        "return Quotient(above, _times(self.below, other.below))",
        "return Quotient(above, self.below)",
    ),
    ("expressions", "powers[name] = powers.get(name, 0) + power", "powers[name] = power"),
    ("expressions", "total[key] = total.get(key, 0) + x * y", "total[key] = x * y"),
    ("expressions", "total.get(key, 0) + c * power", "total.get(key, 0) + c"),
    ("expressions", "_times(self.below, self.below)", "self.below"),
    ("expressions", "_times({(): -1}, _times(self.above", "_times({(): 1}, _times(self.above"),
    ("expressions", "[A-Za-z][A-Za-z0-9_]{0,20}", "(?s).{0,20}"),
    (
        "expressions",
        "type(power) is int and 0 <= power <= 9:\n            return expand",
        "0 <= power <= 9:\n            return expand",
    ),
    (
        "expressions",
        "case int() if type(tree) is int:\n            return quotient",
        "case int():\n            return quotient",
    ),
    ("expressions", "_operand(a, '/')}/{_operand(b, '/')", "_operand(a, '/')}/{text(b)"),
    ("expressions", "_operand(a, '/^-')", "_operand(a, '/^')"),
    ("expressions", "_operand(a, '/^-')", "_operand(a, '-')"),
    ("expressions", '["*", -1, a, derivative(b)]', '["*", 1, a, derivative(b)]'),
    ("expressions", '["*", derivative(a), tree]', "tree"),
    ("expressions", '["exp", ["*", -1, a, a]]', '["exp", ["*", a, a]]'),
    # Assembler.
    ("assembler", "if block == other:", "if True:"),
    ("assembler", "(-1, dot(j.g, x))", "(1, dot(j.g, x))"),
    ("assembler", "(-c * mu, square(x))", "(c * mu, square(x))"),
    ("assembler", "(2 * c * mu, dot(g, x))", "(c * mu, dot(g, x))"),
    ("assembler", "c = 1 / Fraction(2 - 2 * mu)", "c = 1 / Fraction(2 - mu)"),
    ("assembler", "for j, q in points.items() if i != j", "for j, q in points.items() if i < j"),
    ("assembler", "x = add((1, x), (-h, g))", "x = add((1, x), (h, g))"),
    ("assembler", "x = add((1, x), (-h, g))", "x = add((1, x), (-1, g))"),
    ("assembler", '*[(1, symbol("Q", f"g{k}"))] * bool(q)', "*[]"),
    (
        "assembler",
        'y = Point(q, add((1, symbol("P", "g")), (1, symbol("Q", "g"))), value("f"))',
        'y = Point(q, symbol("Q", "g"), value("f"))',
    ),
    ("assembler", "(-HALF, square(x))", "(-1, square(x))"),
    ("assembler", "(1 if a == b else HALF)", "1"),
    ("assembler", "1 / (4 * steps * h + 2)", "1 / (4 * steps * h + 1)"),
    ("assembler", "not 0 < h <= 1", "not 0 < h <= 2"),
    ("assembler", '"f >= f* at y": y.f', '"f >= f* at y": x.f'),
    # Certificate and claims.
    ("certificate", "if type(x) is not int:", "if not isinstance(x, int):"),
    ("certificate", 'integer(body["format"]) != FORMAT', 'body["format"] != FORMAT'),
    ("certificate", "if denominator <= 0:", "if denominator == 0:"),
    ("certificate", "sort_keys=True", "sort_keys=False"),
    ("certificate", "[A-Za-z0-9_]{1,40}", "[^,]{1,40}"),
    ("certificate", "re.fullmatch(", "re.match("),
    ("certificate", '.encode("unicode_escape").decode()', ""),
    ("claims", "claim.theorem != theorem", "False"),
    ("claims", "{*FIELDS[kind]}", "set(data)"),
    # Verifier, inequalities, replay.
    ("verifier", "shown(str(gap))", "str(gap)"),
    ("verifier", "ArithmeticError, RecursionError", "ArithmeticError"),
    ("inequalities", "if any(m < 0 for m in multipliers.values()):", "if False:"),
    ("inequalities", "if strictly and rank < len(a):", "if False:"),
    (
        "inequalities",
        '_require_semidefinite(metric, "P", strictly=True)',
        '_require_semidefinite(metric, "P")',
    ),
    ("inequalities", '_require_semidefinite(metric, "P", strictly=True)', "pass"),
    ("inequalities", "combination((rate, metric), (-1,", "combination((rate + 1, metric), (-1,"),
    ("inequalities", "for i, a in enumerate(vertices):", "for i, a in enumerate(vertices[:1]):"),
    ("inequalities", "if unit <= 0:", "if unit == 0:"),
    ("inequalities", "unit**2 * a * integer(b) < 1", "unit**2 * a * integer(b) < 0"),
    ("inequalities", "integer(a) <= 0 or", ""),
    ("inequalities", "scale**2 * unit * weighted[i][j]", "0 * weighted[i][j]"),
    ("inequalities", "(r * scale) ** 2 * unit * back[i][j]", "0 * back[i][j]"),
    ("inequalities", "[c * scale**2 * entry for entry in row]", "[0 * entry for entry in row]"),
    ("inequalities", "here == 0 and all(other > 0 if", "all(other > 0 if"),
    ("inequalities", "grown == length > 0", "True"),
    ("inequalities", "grown == length > 0", "grown == length"),
    ("inequalities", "tight = returned and len(word) > 0", "tight = True or len(word) > 0"),
    ("inequalities", "if grown > length:", "if grown >= length:"),
    ("inequalities", 'if any(block == "f" for block, *_ in rest):', "if False:"),
    ("inequalities", "for block, names in assembler.blocks(rest).items():", "for block, names in ():"),
    ("inequalities", "rates != worst.rates(**parameters)", "False"),
    ("inequalities", "bound > block.bound", "False"),
    ("inequalities", "rate > system.rate", "False"),
    ("replay", "if low >= high or", "if"),
    ("replay", "intervals.bound_above(f, low, high) > bound", "intervals.bound_above(f, low, low) > bound"),
    ("replay", "there.low < bound - gap", "False"),
    ("replay", "or breaks[-1] < slope.high", ""),
    ("replay", "if left != right:\n            point", "if False:\n            point"),
    ("replay", "if left != right:\n                raise", "if False:\n                raise"),
    ("replay", "zip(pairs, rebuilt, strict=True)", "zip(pairs[:1], rebuilt[:1], strict=True)"),
    ("replay", "hashlib.sha256(words.encode())", 'hashlib.sha256(b"")'),
    ("replay", "constant != asked.constant", "constant < asked.constant"),
    ("replay", "if not holds:", "if False:"),
    ("replay", "if holds is None:", "if False:"),
    ("replay", "Fraction(degree, 1 << BITS)", "Fraction(degree, 1 << 2 * BITS)"),
    ("instances", "return digest([inner, outer, scale, slopes])", "return digest([inner, outer, slopes])"),
    ("instances", "return derivative(self.function)", "return self.function"),
    ("identities", "(1 - gate) * _attended(e, v)", "gate * _attended(e, v)"),
    ("evaluations", "layer[1]), combination((sign,", "layer[1]), combination((1,"),
    ("evaluations", "sign * reference", "reference"),
    ("evaluations", "(-sign, product(transpose(slope), z))", "(-1, product(transpose(slope), z))"),
    ("evaluations", "2 * sign * sum(map(inner, g, moved))", "2 * sum(map(inner, g, moved))"),
    ("enumerations", "<= c * e", "<= e"),
    ("enumerations", "c * r * (r + n - 1)", "r * (r + n - 1)"),
    ("enumerations", "c * r * spread", "r * spread"),
    ("enumerations", "True if a.hi <= b.lo else False if a.lo > b.hi else None", "a.lo <= b.hi"),
]


def test_the_checks_pass_without_a_mutant():
    assert set(ORDER) == set(TRUSTED)
    assert noticed(plain(), ORDER[0]) == ""


@pytest.mark.parametrize("name", ORDER)
def test_every_mutant_is_noticed(name: str):
    """Those written by hand, and every guard left out: no survivors."""
    mutants = []
    for module, old, new in WRITTEN:
        if module == name:
            assert source(name).count(old) >= 1, f"{old} stands nowhere in {name}"
            mutants.append((f"{old} -> {new}", source(name).replace(old, new, 1)))
    survivors = []
    for what, text in chain(mutants, guards(name)):
        if not noticed(copies(name, text), name):
            survivors.append(what)
    assert survivors == []


def test_there_are_enough_mutants():
    assert len(WRITTEN) >= 100
    assert sum(map(_count, ORDER)) >= 40
