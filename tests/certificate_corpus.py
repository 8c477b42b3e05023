"""Certificates that are sound, and forged ones of every kind of forgery, made here from the stored ones.

A forgery is a false, unbound, weak or empty claim; with each stands what the verifier has to say of it.
"""

from __future__ import annotations

import copy
import json

from proofs_check.catalogue import FOLDER
from proofs_check.certificate import digest, seal

Forgery = tuple[str, str, str, str]  # (what, text, outcome, a part of the reason)


def load(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def changed(stored: str, *, theorem: object = None, **data: object) -> str:
    """A stored certificate with some of its data replaced, sealed anew."""
    body = load(stored)
    fields = copy.deepcopy(body["data"]) | data
    return json.dumps(seal(body["theorem"] if theorem is None else theorem, body["kind"], fields))


SOUND = [
    *("T02-gap_above", "T03-gap_below", "T04-sandwich_above", "T04-sandwich_below", "T05-subspace_descent"),
    *("T06-enumeration", "T09-2-steps-1-1-sdp", "T09-identity", "T10-2-steps-1-2-closed", "T10-identity"),
    *("T15-identity", "T20-evaluation", "T24-identity", "T25-identity", "T27-identity", "T29-identity"),
    *("T31-identity", "T34-identity", "T36-evaluation", "T39-identity", "T40-identity", "T41-switched"),
    *("T41-tight", "T42-identity", "T43-identity", "T44-identity", "T45-identity", "T47-identity"),
    *("T48-identity", "X3-two-units"),
]
QUIET = {"slopes": [[0, 1], [0, 1]], "direction": [[0, 1], [0, 1]]}
STILL = {"word": [], "vector": [[0, 1]] * 3}
TRIVIAL = [["+", "x", "x"], ["*", 2, "x"]]


def forged() -> list[Forgery]:
    """Every kind of forgery."""
    return [*_labels(), *_numbers(), *_performance(), *_blocks(), *_systems(), *_computed()]


def _labels() -> list[Forgery]:
    undecided = "UNDECIDED"
    titled = {"name": "t\nVERIFIED  T10 proved_exact  f(x_N) = f* for all f", "pairs": [TRIVIAL]}
    made = [
        ("another theorem's label", changed("T02-gap_above", theorem="T31"), "a claim of T02, not of T31"),
        ("a theorem that is a list", changed("T24-identity", theorem=["T24"]), "expected a name"),
        ("a theorem that is a number", changed("T24-identity", theorem=24), "expected a name"),
        ("an identity of nothing", changed("T24-identity", pairs=[TRIVIAL]), "not that of prefix_is_gate"),
        ("no equality", changed("T24-identity", pairs=[]), "is 1 equalities, not 0"),
        (
            "one equality twice",
            changed("T31-identity", pairs=[load("T31-identity")["data"]["pairs"][0]] * 2),
            "1",
        ),
        ("a title with a line of its own", json.dumps(seal("T10", "identity", titled)), "expected a name"),
        (
            "one of two equalities",
            changed("T31-identity", pairs=[load("T31-identity")["data"]["pairs"][0], TRIVIAL]),
            "equality 1 is not that of adjoint",
        ),
        ("a name of no claim", changed("T24-identity", name="x_is_x"), "no identity named x_is_x"),
        ("a name with a line end", changed("T24-identity", name="x\n"), "expected a name"),
        ("a name in another script", changed("T24-identity", name="\u00e9"), "expected a name"),
        ("a name too long", changed("T24-identity", name="x" * 41), "expected a name"),
        (
            "another identity's name",
            changed("T24-identity", theorem="T25", name="relative_attention"),
            "4 equal",
        ),
        ("an unknown kind", json.dumps(seal("T24", "oracle", {"name": "x"})), "unknown kind oracle"),
        ("a field too many", changed("T24-identity", note="proved by hand"), "the data of kind identity"),
        ("data that are a list", json.dumps(seal("T24", "identity", ["x"])), "the data of kind identity"),
        (
            "the subspace under T09's old name",
            changed("T09-2-steps-1-1-sdp", setting="gradient_descent"),
            "T10",
        ),
    ]
    return [(what, text, undecided, reason) for what, text, reason in made]


def _numbers() -> list[Forgery]:
    body = load("T24-identity")
    altered = json.dumps(body | {"theorem": "T25"})
    true_format = seal("T24", "identity", body["data"])
    true_format = {k: v for k, v in true_format.items() if k != "sha256"} | {"format": True}
    other_format = true_format | {"format": 2}
    pairs = [["^", "x", True], "x"]
    made = [
        ("altered", altered, "the digest does not fit"),
        (
            "format true",
            json.dumps(true_format | {"sha256": digest(true_format)}),
            "expected an integer, got True",
        ),
        ("format 2", json.dumps(other_format | {"sha256": digest(other_format)}), "format 2 is not 1"),
        ("a key too many", json.dumps(body | {"by": "me"}), "a certificate has the keys"),
        ("a key twice", '{"format":1,"format":1}', "a key occurs twice"),
        ("a float", json.dumps(body).replace('"format": 1', '"format": 1.0'), "only integers are allowed"),
        ("no number", json.dumps(body).replace('"format": 1', '"format": NaN'), "only integers are allowed"),
        ("a power of true", changed("T24-identity", pairs=[pairs]), "not a rational function"),
        ("true as a tree", changed("T24-identity", pairs=[[True, 1]]), "not a rational function"),
        (
            "a variable with a line end",
            changed("T24-identity", pairs=[["x\n", "x"]]),
            "not a variable's name",
        ),
        ("a division by zero", changed("T24-identity", pairs=[[["/", 1, 0], "x"]]), "a denominator is zero"),
        ("a tower", changed("T24-identity", pairs=[[_tower(), "x"]]), "too large"),
        ("a power of powers", changed("T24-identity", pairs=[[_power("x", 4), 1]]), "the degree of the"),
        ("pairs that are text", changed("T24-identity", pairs="ab"), "expected a list"),
        ("sign true", changed("T20-evaluation", sign=True), "expected an integer, got True"),
        ("rounds true", changed("T20-evaluation", rounds=True), "expected an integer, got True"),
        ("a denominator below zero", changed("X3-two-units", bound=[-32, -1]), "a denominator has to be > 0"),
        ("three integers", changed("X3-two-units", bound=[32, 1, 7]), "a numerator and a denominator"),
        ("a rational that is text", changed("X3-two-units", bound="32"), "expected a list"),
        ("rows of two lengths", changed("X3-two-units", inner=[[-2, -2], [-2]]), "rows of one length"),
        ("empty rows", changed("X3-two-units", inner=[[], []]), "rows of one length"),
        ("no rows", changed("X3-two-units", inner=[]), "rows of one length"),
    ]
    return [(what, text, "UNDECIDED", reason) for what, text, reason in made]


def _power(base: object, times: int) -> object:
    """The base to the power 9, so many times: with twelve, its value at a point would fill any memory."""
    return ["^", _power(base, times - 1), 9] if times else base


def _tower() -> list:
    """Two polynomials of 330 terms each."""
    return ["*", ["^", ["+", *"abcde"], 7], ["^", ["+", *"abcdf"], 7]]


def _performance() -> list[Forgery]:
    one, witness = [1, 1], load("T02-gap_above")["data"]["witness"]
    nothing = {
        "vectors": {k: [[0, 1]] * len(v) for k, v in witness["vectors"].items()},
        "values": {k: [0, 1] for k in witness["values"]},
    }
    below = copy.deepcopy(load("T03-gap_below")["data"]["witness"])
    below["values"]["f"] = [-1, 1]
    above = copy.deepcopy(below)
    above["values"]["f"] = [1, 1]
    tight = load("T09-2-steps-1-1-sdp")["data"]["multipliers"]
    more = tight | {"0>1": [tight["0>1"][0] + 10**9 * tight["0>1"][1], 10**9 * tight["0>1"][1]]}
    long = {"h": [3, 2], "steps": 1}
    first = load("T09-1-steps-1-1-closed")["data"]
    still = {
        "vectors": {k: [[0, 1]] for k in first["witness"]["vectors"]},
        "values": {"f0": [0, 1], "f1": [0, 1]},
    }
    return [
        ("a rate too good", changed("T03-gap_below", rates=[[2, 3]], tight=0), "REFUTED", "fails by 1/6"),
        ("a rate too weak", changed("T03-gap_below", rates=[[1, 3]], tight=0), "UNDECIDED", "weaker than"),
        ("tight and too weak", changed("T03-gap_below", rates=[[1, 3]]), "UNDECIDED", "weaker than"),
        (
            "two rates for one",
            changed("T10-2-steps-1-2-closed", rates=[[1, 6]], multipliers={}),
            "UNDECIDED",
            "",
        ),
        (
            "a form that is not semidefinite",
            changed("T09-1-steps-1-1-closed", multipliers={"*>1": [1, 1]}),
            "UNDECIDED",
            "the Gram form of block P is not positive semidefinite",
        ),
        ("a witness above", changed("T03-gap_below", witness=above), "UNDECIDED", "does not attain"),
        ("no multipliers", changed("T02-gap_above", multipliers={}), "UNDECIDED", "values do not cancel"),
        (
            "multipliers that do not cancel",
            changed("T09-2-steps-1-1-sdp", multipliers=more),
            "UNDECIDED",
            "cancel",
        ),
        (
            "a negative multiplier",
            changed("T03-gap_below", multipliers={"strongly convex at *": [-1, 1]}),
            "UNDECIDED",
            "a multiplier is negative",
        ),
        (
            "a negative multiplier that would do",
            changed("T09-1-steps-1-1-closed", multipliers={"0>*": [-1, 1], "0>1": [1, 1]}),
            "UNDECIDED",
            "a multiplier is negative",
        ),
        (
            "tight without a witness",
            changed("T02-gap_above", witness=nothing),
            "UNDECIDED",
            "does not attain",
        ),
        ("tight = 2", changed("T02-gap_above", tight=2), "UNDECIDED", "from 0 to 1"),
        ("a witness of no function", changed("T03-gap_below", witness=below), "UNDECIDED", "does not attain"),
        (
            "a step too long",
            changed("T09-1-steps-1-1-closed", parameters=long, rates=[[1, 8]], witness=still, tight=0),
            "UNDECIDED",
            "0 < h <= 1",
        ),
        (
            "no step",
            changed("T09-1-steps-1-1-closed", parameters={"h": [0, 1], "steps": 1}, rates=[[1, 2]]),
            "UNDECIDED",
            "",
        ),
        (
            "too many steps",
            changed("T09-1-steps-1-1-closed", parameters={"h": one, "steps": 61}),
            "UNDECIDED",
            "from 1 to 60",
        ),
        (
            "an unknown inequality",
            changed("T02-gap_above", multipliers={"y>z": one}),
            "UNDECIDED",
            "damaged: KeyError",
        ),
    ]


def _blocks() -> list[Forgery]:
    beyond = {"slopes": [[2, 1], [0, 1]], "direction": [[1, 1], [1, 1]]}
    short = {"slopes": [[1, 1]], "direction": [[1, 1], [1, 1]]}
    undecided = "UNDECIDED"
    loose = {"bound": [33, 1], "tight": 0}
    zero = {"bound": [0, 1], "tight": 0, "witness": QUIET, "multipliers": [1, 1], "reciprocals": [1, 1]}
    return [
        ("a unit below zero", changed("X3-two-units", **zero, unit=[-100, 1]), undecided, "unit of the mult"),
        ("a unit of zero", changed("X3-two-units", unit=[0, 1]), undecided, "unit of the multipliers"),
        ("a multiplier of zero", changed("X3-two-units", multipliers=[0, 64]), undecided, "every multiplier"),
        (
            "a multiplier below zero",
            changed("X3-two-units", multipliers=[-48, 64], reciprocals=[-12, 9]),
            undecided,
            "every",
        ),
        (
            "a reciprocal too small",
            changed("X3-two-units", reciprocals=[11, 9]),
            undecided,
            "every multiplier",
        ),
        ("a multiplier too few", changed("X3-two-units", multipliers=[48]), undecided, "every multiplier"),
        (
            "a bound too small",
            changed("X3-two-units", bound=[31, 1], tight=0),
            "REFUTED",
            "is sqrt(31)-Lipschitz fails",
        ),
        (
            "the same without a witness",
            changed("X3-two-units", bound=[31, 1], tight=0, witness=QUIET),
            undecided,
            "the LMI",
        ),
        (
            "a bound too large",
            changed("X3-two-units", **loose),
            undecided,
            "weaker than the claim, L^2 <= 32",
        ),
        ("tight without a witness", changed("X3-two-units", witness=QUIET), undecided, "does not attain"),
        (
            "a witness out of range",
            changed("X3-two-units", **loose, witness=beyond),
            undecided,
            "a slope in range",
        ),
        ("a witness too short", changed("X3-two-units", witness=short), undecided, "a slope in range"),
        (
            "another network",
            changed("X3-two-units", outer=[[-1, 1]]),
            undecided,
            "the network is not that of",
        ),
        ("another scale", changed("X3-two-units", scale=[1, 2]), undecided, "the network is not that of"),
        (
            "other slopes",
            changed("X3-two-units", slopes=[[0, 1], [1, 2]]),
            undecided,
            "the network is not that",
        ),
        (
            "a network that does not fit",
            changed("X3-two-units", outer=[[-2, 2, 7]]),
            undecided,
            "W0 has 2 rows, and W1 3",
        ),
    ]


def _systems() -> list[Forgery]:
    vertices = load("T41-tight")["data"]["vertices"]
    wide = [{"scale": [1, 1], "rows": [[0, 0, 9, 0], [0, 0, 9, 0], [9, 9, 100, 0]]}]
    zero, rows = [[0] * 3] * 3, vertices[0]["rows"]
    # (9/10)^-2 A'A + I is kept by the first vertex, which is 9/10 of an involution, not by the second.
    first = [[81 * (i == j) + sum(row[i] * row[j] for row in rows) for j in range(3)] for i in range(3)]
    loose = {"tight": 0, "witness": STILL}
    undecided = "UNDECIDED"
    return [
        ("no vertices", changed("T41-tight", vertices=[], **loose), undecided, "at least one"),
        ("vertices of another shape", changed("T41-tight", vertices=wide, **loose), undecided, "3 x 3"),
        (
            "a metric of another shape",
            changed("T41-tight", metric=[[1, 0], [0, 1]], **loose),
            undecided,
            "2 x 2",
        ),
        ("a metric that is not square", changed("T41-tight", metric=[[1, 0]] * 3, **loose), undecided, ""),
        (
            "a metric that is not symmetric",
            changed("T41-tight", metric=[[1, 2, 4], [2, 5, 10], [4, 9, 21]], **loose),
            undecided,
            "symmetric",
        ),
        (
            "a metric that is only semidefinite",
            changed("T41-tight", metric=zero, **loose),
            undecided,
            "P is singular",
        ),
        (
            "a metric that is not definite",
            changed("T41-tight", metric=[[-1, 0, 0], [0, 1, 0], [0, 0, 1]], **loose),
            undecided,
            "P is not positive",
        ),
        (
            "one vertex of two",
            changed("T41-tight", vertices=vertices[:1]),
            undecided,
            "the vertices are not those",
        ),
        (
            "another metric",
            changed("T41-tight", metric=[[1, 0, 0], [0, 1, 0], [0, 0, 1]], **loose),
            undecided,
            "Lyapunov",
        ),
        ("a rate too small", changed("T41-tight", rate=[80, 100]), "REFUTED", "fails: the product [0] maps"),
        (
            "a rate too small without a witness",
            changed("T41-tight", rate=[80, 100], **loose),
            undecided,
            "inequality of vertex 0",
        ),
        (
            "a metric of one vertex",
            changed("T41-tight", metric=first, **loose),
            undecided,
            "inequality of vertex 1",
        ),
        (
            "a rate too large",
            changed("T41-tight", rate=[82, 100], tight=0),
            undecided,
            "weaker than the claim",
        ),
        ("tight without a witness", changed("T41-tight", witness=STILL), undecided, "does not attain"),
        (
            "a word that is too long",
            changed("T41-tight", witness={"word": [0, 1] * 33, "vector": [[1, 1]] * 3}),
            undecided,
            "has 66 letters, at most 64",
        ),
        (
            "a letter below zero",
            changed("T41-tight", witness={"word": [-1], "vector": [[0, 1]] * 3}),
            undecided,
            "from 0 to 1",
        ),
        (
            "a witness of another length",
            changed("T41-tight", witness={"word": [0], "vector": [[1, 1]] * 2}),
            undecided,
            "no inner product",
        ),
    ]


def _computed() -> list[Forgery]:
    breaks = load("T48-silu")["data"]["breaks"]
    undecided = "UNDECIDED"
    top = load("T48-silu")["data"]["attained"]
    return [
        ("one case", changed("T19-enumeration", range=[1, 1]), undecided, "has to cover 1..300"),
        (
            "a range that starts late",
            changed("T06-enumeration", range=[2, 10]),
            undecided,
            "has to cover 1..10",
        ),
        (
            "a range that ends early",
            changed("T06-enumeration", range=[1, 9]),
            undecided,
            "has to cover 1..10",
        ),
        ("an empty range", changed("T06-enumeration", range=[3, 2]), undecided, "has to cover"),
        ("a range too long", changed("T06-enumeration", range=[1, 13]), undecided, "from 1 to 12"),
        ("a weak constant", changed("T19-enumeration", constant=[1000, 1]), undecided, "is not that of"),
        (
            "a constant that is true of this range only",
            changed("T18-enumeration", constant=[201, 100]),
            undecided,
            "the constant 201/100 is not that of the theorem, 2",
        ),
        (
            "a strong constant",
            changed("T06-enumeration", constant=[10**9 + 1, 10**9]),
            "REFUTED",
            "fails at D=1",
        ),
        ("too close to tell", changed("T12-enumeration", range=[42, 42]), undecided, "too close to tell"),
        ("sign 0", changed("T20-evaluation", sign=0), undecided, "a sign is 1 or -1"),
        ("sign -1", changed("T20-evaluation", sign=-1), "REFUTED", "equality 0 of telescoping fails"),
        (
            "small sizes",
            changed("T20-evaluation", parameters={"n": 1, "layers": 1}),
            undecided,
            "is claimed at",
        ),
        ("no rounds", changed("T20-evaluation", rounds=0), undecided, "from 1 to 20"),
        ("too few rounds", changed("T35-evaluation", rounds=1), undecided, "too few rounds"),
        ("one break", changed("T48-silu", breaks=[top], attained=top), undecided, "do not cover [0, 8]"),
        ("breaks that start late", changed("T48-silu", breaks=breaks[1:]), undecided, "do not cover"),
        ("breaks that end early", changed("T48-silu", breaks=breaks[:-1]), undecided, "do not cover"),
        (
            "breaks in a loop",
            changed("T48-silu", breaks=[[0, 1], [8, 1], [0, 1], [8, 1]]),
            undecided,
            "is not shown",
        ),
        ("breaks backwards", changed("T48-silu", breaks=[[0, 1], [9, 1], [8, 1]]), undecided, "is not shown"),
        (
            "breaks that turn back",
            changed("T48-silu", breaks=[*breaks, [9, 1], [8, 1]]),
            undecided,
            "is not shown on [9, 8]",
        ),
        *(
            (f"sign -1 in {name}", changed(f"{name}-evaluation", sign=-1), "REFUTED", "equality")
            for name in (
                *("T21", "T23", "T26", "T28", "T31", "T34", "T36", "T37"),
                *("T50", "T51", "T52", "T58"),
            )
        ),
        (
            "boxes too wide",
            changed("T48-silu", breaks=[*breaks[:-1:8], breaks[-1]]),
            undecided,
            "is not shown",
        ),
        ("a slope too small", changed("T48-silu", bound=[109, 100]), "REFUTED", "fails at x"),
        ("a slope too large", changed("T48-silu", bound=[111, 100]), undecided, "not attained"),
        (
            "a gap too large",
            changed("T48-silu", bound=[111, 100], gap=[1, 10]),
            undecided,
            "weaker than the claim",
        ),
        ("attained outside", changed("T48-silu", attained=[9, 1]), undecided, "lies outside"),
        ("sides that differ", changed("T24-identity", pairs=[["x", "y"]]), "REFUTED", "differ by"),
    ]
