from __future__ import annotations

import ast
import copy
import json
import random
import re
import sys
from fractions import Fraction
from pathlib import Path

import pytest

import proofs_check
from proofs_check import inequalities
from proofs_check.catalogue import FOLDER, TRUSTED, stored, trusted_lines
from proofs_check.certificate import seal
from proofs_check.enumerations import ENUMERATIONS
from proofs_check.instances import SwitchedSystem
from proofs_check.mutants import mutants
from proofs_check.rational import matrix
from proofs_check.verifier import Outcome, verify, verify_file

PACKAGE = Path(proofs_check.__file__).parent
VERIFIED, REFUTED, UNDECIDED = Outcome.VERIFIED, Outcome.REFUTED, Outcome.UNDECIDED


def load(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def outcome(certificate: dict, **data: object) -> Outcome:
    """The outcome of a certificate with some of its data replaced, sealed anew."""
    changed = copy.deepcopy(certificate["data"]) | data
    return verify(json.dumps(seal(certificate["theorem"], certificate["kind"], changed))).outcome


def weaker(certificate: dict, **data: object) -> bool:
    """Whether the data prove something that is true, but less than the claim of the registry."""
    changed = copy.deepcopy(certificate["data"]) | data
    verdict = verify(json.dumps(seal(certificate["theorem"], certificate["kind"], changed)))
    return verdict.outcome is UNDECIDED and "weaker than" in verdict.reason


def leaves(node: object, path: tuple = ()) -> list[tuple]:
    if isinstance(node, dict):
        return [leaf for key, child in node.items() for leaf in leaves(child, (*path, key))]
    if isinstance(node, list):
        return [leaf for i, child in enumerate(node) for leaf in leaves(child, (*path, i))]
    return [path]


def replaced(node: object, path: tuple, value: object) -> object:
    if not path:
        return value
    changed = copy.copy(node)
    changed[path[0]] = replaced(node[path[0]], path[1:], value)
    return changed


SMALL = ["T02-gap_above", "T03-gap_below", "T06-enumeration", "T09-2-steps-1-1-sdp", "T10-2-steps-1-2-closed"]
SMALL += ["T20-evaluation", "T24-identity", "T41-tight", "X3-two-units"]


# What the trusted modules are.


@pytest.mark.parametrize("name", TRUSTED)
def test_trusted_modules_have_no_floats_no_tolerance_and_only_the_standard_library(name: str):
    source = (PACKAGE / f"{name}.py").read_text()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float | complex)), ast.dump(
            node
        )
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] in sys.stdlib_module_names for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            top, *rest = node.module.split(".")
            modules = rest or [alias.name for alias in node.names]
            assert top in sys.stdlib_module_names or (top == "proofs_check" and set(modules) <= set(TRUSTED))
    code = ast.unparse(tree)
    assert not re.search(
        r"\b(float|isclose|allclose|tolerance|tol|atol|rtol|approx|round)\b|numpy|torch|cvxpy",
        code.replace("without a tolerance", ""),
    )


def test_the_trusted_base_is_as_long_as_it_is_said_to_be():
    assert trusted_lines() == sum(len((PACKAGE / f"{name}.py").read_text().splitlines()) for name in TRUSTED)
    assert all(len((PACKAGE / f"{name}.py").read_text().splitlines()) <= 500 for name in TRUSTED)
    said = re.search(r"about\s([0-9,]+)\slines", proofs_check.__doc__)[1].replace(",", "")
    assert abs(trusted_lines() - int(said)) <= 100


def test_every_trusted_module_is_listed():
    imported = {name.removeprefix("proofs_check.") for name in _loaded_by_the_verifier()}
    assert imported == set(TRUSTED)
    assert len(set(TRUSTED)) == len(TRUSTED)


def _loaded_by_the_verifier() -> set[str]:
    import subprocess

    script = (
        "import sys, proofs_check.verifier; print(*[m for m in sys.modules if m.startswith('proofs_check.')])"
    )
    return set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
        ).stdout.split()
    )


# Damage.


@pytest.mark.parametrize("name", SMALL)
def test_a_changed_integer_is_never_verified(name: str):
    certificate = load(name)
    assert verify(json.dumps(certificate)).outcome is VERIFIED
    for path in leaves(certificate):
        value = certificate
        for key in path:
            value = value[key]
        for other in [value + 1, -value - 1] if isinstance(value, int) else [value + "0", value[:-1]]:
            verdict = verify(json.dumps(replaced(certificate, path, other)))
            assert verdict.outcome is UNDECIDED, path


def test_a_random_integer_changed_in_any_certificate_is_never_verified():
    rng = random.Random(0)
    for path in stored():
        certificate = load(path.stem)
        at = rng.choice(leaves(certificate["data"]))
        other = rng.choice([rng.randrange(-(10**6), 10**6), 10**300, -(10**300)])
        if replaced(certificate, ("data", *at), other) != certificate:
            verdict = verify(json.dumps(replaced(certificate, ("data", *at), other)))
            assert verdict.outcome is UNDECIDED, (path.stem, at)


@pytest.mark.parametrize("name", SMALL)
def test_truncated_files_are_undecided(name: str):
    text = json.dumps(load(name))
    for end in range(0, len(text), 1 + len(text) // 97):
        assert verify(text[:end]).outcome is UNDECIDED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        "{}",
        '{"format": 1}',
        "\x00",
        '"T09"',
        "[" * 100_000,
        b"\xff\xfe",
        '{"a": 1, "a": 2}',
        "NaN",
    ],
)
def test_what_is_no_certificate_is_undecided(text: str | bytes):
    verdict = verify(text)
    assert verdict.outcome is UNDECIDED
    assert verdict.reason


@pytest.mark.parametrize("bad", [0.5, 1e400, float("nan"), True, "1", None, [1], {}])
@pytest.mark.parametrize("name", ["T02-gap_above", "T41-tight", "X3-two-units"])
def test_only_integers_count_as_integers(name: str, bad: object):
    certificate = load(name)
    for path in leaves(certificate["data"])[::3]:
        changed = replaced(certificate["data"], path, bad)
        if isinstance(bad, str) and path == ("name",):
            continue
        assert (
            verify(json.dumps(seal(certificate["theorem"], certificate["kind"], changed))).outcome
            is not VERIFIED
        )


def test_a_missing_file_and_an_unknown_kind_are_undecided(tmp_path: Path):
    assert verify_file(tmp_path / "absent.json").outcome is UNDECIDED
    verdict = verify(json.dumps(seal("T99", "magic", {})))
    assert verdict.outcome is UNDECIDED
    assert "unknown kind magic" in verdict.reason
    assert verify(json.dumps(seal("T02", "performance", {"setting": "nonsense"}))).outcome is UNDECIDED


# What each kind proves, refutes and leaves open.


@pytest.mark.parametrize(
    "name", [path.stem for path in stored() if path.stem not in ("X3-minilm-layer-0", "X3-minilm-layer-5")]
)
def test_mutants_are_rejected(name: str):
    if re.search(r"-([5-9]|10)-steps|T1[128]-|T35", name):
        pytest.skip("slow; `python -m proofs_check mutate` tries them all")
    tried = list(mutants(load(name)))
    step = 1 + len(tried) // 8
    for what, mutant in tried[::step]:
        assert verify(json.dumps(mutant)).outcome is REFUTED, what


@pytest.mark.parametrize("path", stored(), ids=lambda path: path.stem)
def test_all_that_is_claimed_tight_has_a_mutant(path: Path):
    certificate = load(path.stem)
    data = certificate["data"]
    claimed = data.get("tight", 1) and (
        certificate["kind"] != "enumeration" or ENUMERATIONS[data["name"]].tight
    )
    first = next(mutants(certificate), None)
    assert (first is None) is (not claimed)
    assert first is None or first[1]["data"] != certificate["data"]


def test_performance_needs_its_multipliers():
    certificate = load("T09-2-steps-1-1-sdp")
    multipliers = certificate["data"]["multipliers"]
    assert outcome(certificate) is VERIFIED
    for name, (numerator, denominator) in multipliers.items():
        for other in ([-numerator, denominator], [10**9 * numerator + 1, 10**9 * denominator], [0, 1]):
            assert outcome(certificate, multipliers=multipliers | {name: other}) is UNDECIDED
    assert outcome(certificate, multipliers={}) is UNDECIDED


def test_a_weaker_rate_is_true_but_not_tight():
    certificate = load("T03-gap_below")
    assert outcome(certificate, rates=[[1, 3]]) is UNDECIDED
    assert weaker(certificate, rates=[[1, 3]], tight=0)
    assert outcome(certificate, rates=[[2, 3]], tight=0) is REFUTED


def test_tightness_needs_a_witness():
    certificate = load("T09-2-steps-1-1-sdp")
    witness = certificate["data"]["witness"]
    nothing = {
        "vectors": {key: [[0, 1]] for key in witness["vectors"]},
        "values": {key: [0, 1] for key in witness["values"]},
    }
    assert outcome(certificate, witness=nothing) is UNDECIDED
    assert outcome(certificate, witness=nothing, tight=0) is VERIFIED


@pytest.mark.parametrize(("h", "refuted"), [([3, 2], False), ([8, 5], True), ([19, 10], True)])
def test_the_rate_fails_for_long_steps(h: list[int], refuted: bool):
    """T09 is stated for h <= 1, and is not more: at N = 1 it would hold up to 3/2, not beyond."""
    step = Fraction(*h)
    data = copy.deepcopy(load("T09-1-steps-1-1-closed")["data"])
    end = 1 - step
    data |= {"parameters": {"h": h, "steps": 1}, "rates": [[1, 1]], "tight": 0}
    rate = 1 / (4 * step + 2)
    data["rates"] = [[rate.numerator, rate.denominator]]
    final = end**2 / 2
    data["witness"] = {
        "vectors": {"P:x": [[1, 1]], "P:g0": [[1, 1]], "P:g1": [[end.numerator, end.denominator]]},
        "values": {"f0": [1, 2], "f1": [final.numerator, final.denominator]},
    }
    verdict = verify(json.dumps(seal("T09", "performance", data)))
    assert verdict.outcome is (REFUTED if refuted else UNDECIDED)
    assert refuted or "0 < h <= 1" in verdict.reason


def test_an_invalid_witness_does_not_refute():
    certificate = load("T03-gap_below")
    witness = copy.deepcopy(certificate["data"]["witness"])
    witness["values"]["f"] = [-1, 1]  # below the minimum: no such function
    assert outcome(certificate, witness=witness, tight=0) is VERIFIED
    assert outcome(certificate, witness=witness) is UNDECIDED


def test_contraction_refutes_switching_instability(monkeypatch: pytest.MonkeyPatch):
    """Both vertices are nilpotent (spectral radius 0), yet their product has the eigenvalue 4."""
    rows = [[0, 2], [0, 0]], [[0, 0], [2, 0]]
    system = SwitchedSystem("two nilpotent matrices", [matrix(a) for a in rows], Fraction(4))
    monkeypatch.setitem(inequalities.SYSTEMS, "switched", system)
    vertices = [{"scale": [1, 1], "rows": a} for a in rows]
    data = {
        "name": "switched",
        "vertices": vertices,
        "metric": [[1, 0], [0, 1]],
        "rate": [99, 100],
        "tight": 0,
    }
    alternating = {"word": [1, 0], "vector": [[1, 1], [0, 1]]}
    verdict = verify(json.dumps(seal("T41", "contraction", data | {"witness": alternating})))
    assert verdict.outcome is REFUTED
    assert "[1, 0]" in verdict.reason
    quiet = {"word": [], "vector": [[0, 1], [0, 1]]}
    assert verify(json.dumps(seal("T41", "contraction", data | {"witness": quiet}))).outcome is UNDECIDED
    assert (
        verify(json.dumps(seal("T41", "contraction", data | {"witness": quiet, "rate": [4, 1]}))).outcome
        is VERIFIED
    )
    singular = data | {"witness": quiet, "rate": [4, 1], "metric": [[1, 1], [1, 1]]}
    assert verify(json.dumps(seal("T41", "contraction", singular))).outcome is UNDECIDED


def test_lipschitz():
    certificate = load("X3-two-units")
    assert weaker(certificate, bound=[33, 1], tight=0)
    assert outcome(certificate, tight=0) is VERIFIED
    assert outcome(certificate, witness={"slopes": [[0, 1], [0, 1]], "direction": [[0, 1]] * 2}) is UNDECIDED
    assert outcome(certificate, bound=[31, 1], tight=0) is REFUTED
    quiet = {"slopes": [[0, 1], [0, 1]], "direction": [[0, 1], [0, 1]]}
    assert outcome(certificate, bound=[31, 1], tight=0, witness=quiet) is UNDECIDED
    assert outcome(certificate, multipliers=[0, 64]) is UNDECIDED
    assert outcome(certificate, reciprocals=[11, 9]) is UNDECIDED  # 48/24 * 11/24 < 1
    beyond = {"slopes": [[2, 1], [0, 1]], "direction": [[1, 1], [1, 1]]}
    assert outcome(certificate, bound=[33, 1], tight=0, witness=beyond) is UNDECIDED


def test_interval():
    certificate = load("T48-silu")
    data = certificate["data"]
    assert outcome(certificate, bound=[109, 100]) is REFUTED
    assert outcome(certificate, bound=[111, 100]) is UNDECIDED  # not attained
    assert outcome(certificate, breaks=data["breaks"][::8]) is UNDECIDED  # too wide
    assert outcome(certificate, breaks=data["breaks"][::-1]) is UNDECIDED
    assert outcome(certificate, attained=[9, 1]) is UNDECIDED
    assert outcome(certificate, function="y") is UNDECIDED  # no such field
    assert weaker(certificate, bound=[110, 100], gap=[1, 100])


def test_identity_witnesses_are_exact():
    pairs = [[["^", ["+", "a", "b"], 2], ["+", ["^", "a", 2], ["^", "b", 2]]]]
    verdict = verify(json.dumps(seal("T24", "identity", {"name": "prefix_is_gate", "pairs": pairs})))
    assert verdict.outcome is REFUTED
    a, b = (int(re.search(rf"{name}=(\d+)", verdict.reason)[1]) for name in "ab")
    assert f"differ by {2 * a * b} at" in verdict.reason
    assert outcome(load("T24-identity"), pairs=[]) is UNDECIDED


def test_enumerations_and_evaluations_have_to_do_some_work():
    assert outcome(load("T06-enumeration"), range=[3, 2]) is UNDECIDED
    assert outcome(load("T06-enumeration"), name="nothing") is UNDECIDED
    assert outcome(load("T20-evaluation"), rounds=0) is UNDECIDED
    assert outcome(load("T18-enumeration"), range=[1, 8], constant=[3, 1]) is REFUTED
    assert outcome(load("T11-enumeration"), range=[2, 12], constant=[1, 9]) is REFUTED
    assert outcome(load("T12-enumeration"), range=[4, 12], constant=[1, 9]) is REFUTED
    assert outcome(load("T20-evaluation"), parameters={"n": 2}) is UNDECIDED
    shape = {"n": 3, "m": 2, "steps": 4}
    assert outcome(load("T37-evaluation"), parameters=shape | {"samples": 3}) is VERIFIED
    assert outcome(load("T37-evaluation"), parameters=shape | {"samples": -3}) is UNDECIDED  # no equalities


def test_a_true_equality_that_is_not_the_theorems_is_no_proof():
    for pair in ([["+", "a", "b"], ["+", "a", "b"]], [["+", "a", "a"], ["*", 2, "a"]]):
        verdict = verify(json.dumps(seal("T24", "identity", {"name": "prefix_is_gate", "pairs": [pair]})))
        assert verdict.outcome is UNDECIDED
        assert "not that of prefix_is_gate" in verdict.reason


def test_what_would_take_for_ever_is_undecided():
    assert outcome(load("T20-evaluation"), parameters={"n": 10**9, "layers": 4}) is UNDECIDED
    assert outcome(load("T20-evaluation"), rounds=10**9) is UNDECIDED
    assert outcome(load("T06-enumeration"), range=[1, 10**9]) is UNDECIDED
    assert outcome(load("T09-2-steps-1-1-sdp"), parameters={"h": [1, 1], "steps": 10**9}) is UNDECIDED
    pairs = [[["^", ["+", *"abcdefgh"], 10**9], 0]]
    assert outcome(load("T24-identity"), pairs=pairs) is UNDECIDED
    breaks = copy.deepcopy(load("T48-gelu")["data"]["breaks"])
    breaks[-1] = [10**30, 1]
    assert outcome(load("T48-gelu"), breaks=breaks) is UNDECIDED
    assert outcome(load("T48-silu"), breaks=breaks) is UNDECIDED


def test_numbers_below_the_intervals_do_not_refute():
    """At D = 42, d = 40 the bound of T12 is true, and smaller than what 128 bits tell from 0."""
    assert outcome(load("T12-enumeration"), range=[42, 42]) is UNDECIDED
