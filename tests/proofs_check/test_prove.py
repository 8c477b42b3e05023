from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from proofs_check import assembler, catalogue, instances
from proofs_check.certificate import seal
from proofs_check.prove import constants, contraction, identities, lipschitz, performance
from proofs_check.verifier import Outcome, verify

HALF = Fraction(1, 2)


def test_every_theorem_of_the_catalogue_has_a_stored_certificate():
    theorems = {path.stem.split("-")[0] for path in catalogue.stored()}
    assert theorems == set(catalogue.THEOREMS)
    assert max(path.stat().st_size for path in catalogue.stored()) < 200_000


def test_an_unknown_theorem_is_named():
    with pytest.raises(ValueError, match=r"theorem='T99' has no prover; these have: T02"):
        catalogue.prove("T99")


@pytest.mark.parametrize("theorem", ["T02", "T06", "T24", "T41"])
def test_proving_anew_gives_what_is_stored(theorem: str, tmp_path: Path):
    verdicts = catalogue.prove(theorem, tmp_path)
    assert verdicts
    for name, verdict in verdicts.items():
        assert verdict.outcome is Outcome.VERIFIED
        if theorem != "T41":  # a solver's last digits may differ between machines
            assert (tmp_path / f"{name}.json").read_text() == (catalogue.FOLDER / f"{name}.json").read_text()


def test_what_is_not_verified_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wrong = {"name": "prefix_is_gate", "pairs": [["a", "b"]]}
    monkeypatch.setattr(identities, "prefix_is_gate", lambda: iter([("wrong", "identity", [wrong])]))
    assert catalogue.prove("T24", tmp_path)["T24-wrong"].outcome is Outcome.REFUTED
    monkeypatch.setattr(identities, "prefix_is_gate", lambda: iter([("nothing", "identity", [])]))
    assert catalogue.prove("T24", tmp_path)["T24-nothing"].outcome is Outcome.UNDECIDED
    assert not list(tmp_path.iterdir())


def test_the_first_candidate_that_is_verified_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A rounding that is too coarse gives way to a finer one."""
    good = json.loads((catalogue.FOLDER / "T24-identity.json").read_text())["data"]
    bad = {"name": "prefix_is_gate", "pairs": [["a", "b"]]}

    def candidates():
        yield from (bad, good)
        raise AssertionError("nothing is asked for after the first that is verified")

    monkeypatch.setattr(identities, "prefix_is_gate", lambda: iter([("identity", "identity", candidates())]))
    assert catalogue.prove("T24", tmp_path)["T24-identity"].outcome is Outcome.VERIFIED
    assert json.loads((tmp_path / "T24-identity.json").read_text())["data"] == good


def test_every_prover_of_the_catalogue_exists():
    for names in catalogue.PROVERS.values():
        for name in names:
            assert callable(catalogue._prover(name)), name


@pytest.mark.parametrize("two_blocks", [False, True])
def test_the_solver_certificate_is_exact_where_rounding_is_not(two_blocks: bool):
    steps, h = 2, Fraction(1, 2)
    setting = "gradient_descent" if two_blocks else "gradient_descent_in_subspace"
    rates, witness = [1 / (4 * steps * h + 2), *[HALF] * two_blocks], performance.huber(steps, h, two_blocks)
    multipliers = next(performance.solve(assembler.gradient_descent(rates, h, steps), witness))
    sealed = {
        name: seal(
            "T10" if two_blocks else "T09",
            "performance",
            performance.certificate_data(setting, rates, m, witness, h=h, steps=steps),
        )
        for name, m in {
            "exact": multipliers,
            "rounded": {k: Fraction(round(v * 10**6), 10**6) for k, v in multipliers.items()},
            "closed": performance.closed_form(steps, h),
        }.items()
    }
    outcomes = {name: verify(json.dumps(certificate)).outcome for name, certificate in sealed.items()}
    assert outcomes == {"exact": Outcome.VERIFIED, "rounded": Outcome.UNDECIDED, "closed": Outcome.VERIFIED}


def test_a_rate_that_is_too_good_has_no_multipliers():
    witness = performance.huber(1, Fraction(1), False)
    with pytest.raises(ValueError, match="kernel of the witness"):
        next(performance.solve(assembler.gradient_descent([Fraction(1, 7)], Fraction(1), 1), witness))


def test_a_false_identity_is_not_stored():
    a, b = sp.symbols("a b")
    with pytest.raises(ValueError, match="SymPy does not confirm"):
        identities.certificate_data("wrong", [((a + b) ** 2, a**2 + b**2)])
    with pytest.raises(ValueError, match="says nothing"):
        identities.certificate_data("expanded too soon", [(a + b - b, a)])
    with pytest.raises(ValueError, match="not a rational function"):
        identities.tree(sp.exp(a))


def test_the_descent_of_the_certified_bound_is_certified_and_above_every_pattern(
    monkeypatch: pytest.MonkeyPatch,
):
    rng = np.random.default_rng(0)
    inner, outer = rng.integers(-9, 10, (24, 3)), rng.integers(-9, 10, (2, 24))
    data = lipschitz.certificate_data("two_units", inner, outer, Fraction(1, 8), (Fraction(0), Fraction(1)))
    network = instances.network(data["inner"], data["outer"], data["scale"], data["slopes"])
    block = instances.Block("a random block", network, Fraction(*data["bound"]))
    monkeypatch.setitem(instances.BLOCKS, "two_units", block)
    assert verify(json.dumps(seal("X3", "lipschitz", data))).outcome is Outcome.VERIFIED
    bound = float(Fraction(*data["bound"])) ** 0.5
    patterns = rng.integers(0, 2, (400, 24))
    reached = max(np.linalg.norm((outer / 8 * p) @ (inner / 8), 2) for p in patterns)
    assert reached <= bound <= np.linalg.norm(outer / 8, 2) * np.linalg.norm(inner / 8, 2)
    assert verify(json.dumps(seal("X3", "lipschitz", lipschitz.two_units()))).outcome is Outcome.UNDECIDED
    monkeypatch.undo()
    assert verify(json.dumps(seal("X3", "lipschitz", lipschitz.two_units()))).outcome is Outcome.VERIFIED


def test_constants_are_those_of_the_literature():
    where, bound = constants.gelu_constant()
    assert abs(float(where) - 2**0.5) < 1e-11
    assert 0 < float(bound) - 1.128904145185154786 < 3e-12
    where, bound = constants.silu_constant()
    assert abs(float(where) - 2.399357280515) < 1e-11
    assert 0 < float(bound) - 1.099839320128867 < 3e-12
    assert lipschitz.GELU_SLOPES[1] == constants.gelu_constant()[1]


def test_the_switched_system_contracts_though_its_norms_exceed_one():
    data = contraction.switched()
    vertices = [np.array(v["rows"]) * v["scale"][0] / v["scale"][1] for v in data["vertices"]]
    metric = np.linalg.cholesky(np.array(data["metric"], dtype=float))
    for a in vertices:
        assert np.linalg.norm(a, 2) > 1
        assert np.linalg.norm(metric.T @ a @ np.linalg.inv(metric.T), 2) <= 0.98
