"""Theorems measured on tiny networks: every row holds, what cannot be measured says so, mutants fall."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_problems import toy_problem
from typer.testing import CliRunner

from deltatheory import autodiff
from deltatheory.testing import on_fresh_lora, on_models, on_network
from deltatheory.testing.on_models import ON_MODELS, check_on_model, measured
from deltatheory.testing.probe import Probe, operator_norm
from deltatheory.theorems import THEOREMS


@pytest.fixture(scope="module")
def result():
    seen = []
    problem = toy_problem("lora", family="bert", dtype=torch.float64, r=1)
    result = check_on_model(problem, seed=3, on_row=seen.append)
    assert [row.id for row in seen] == sorted(row.id for row in result.rows)
    return result


@pytest.fixture(scope="module")
def rows(result):
    return {row.id: row for row in result.rows}


def test_every_measured_theorem_holds(rows) -> None:
    assert len(rows) == len(ON_MODELS) >= 25
    for row in rows.values():
        assert row.holds is True, row
        assert row.hypotheses.startswith(("met", "local"))
        assert row.status == str(THEOREMS[row.id].status)


def test_vacuous_bounds_come_first_and_are_named(rows) -> None:
    flags = [row.vacuous for row in rows.values()]
    assert flags == sorted(flags, reverse=True)
    assert rows["T18"].vacuous  # 32 bits for every coordinate of δ
    assert rows["T47b"].vacuous  # epsilon is 1e-12
    assert not rows["T47a"].vacuous
    assert not rows["T44a"].vacuous


def test_identities_and_attained_bounds_are_tight(rows) -> None:
    identities = {id for id, row in rows.items() if row.kind == "identity"}
    assert len(identities) >= 14
    for id in identities | {"T20a", "T23"}:
        assert rows[id].ratio == pytest.approx(1)


def test_a_wrong_theorem_does_not_hold_on_the_model(monkeypatch) -> None:
    """The measured sides decide: turned round, the bounds fail."""
    problem = toy_problem("lora", family="bert", dtype=torch.float64, r=1)
    turned = {"T43a": "lower", "T44a": "lower", "T03": "upper", "T49b": "lower", "T58a": "lower"}
    wrong = {id: replace(THEOREMS[id], kind=kind) for id, kind in turned.items()}
    monkeypatch.setattr(on_models, "get_theorem", lambda id: wrong[id])
    assert all(row.holds is False for row in check_on_model(problem, list(turned)).rows)


def test_means_over_draws_tell_a_wrong_scale(monkeypatch) -> None:
    """Within standard errors hold the claims, and not those of LoRA's own scale α/r."""
    sketch, square = on_fresh_lora._sketch, on_fresh_lora._square
    monkeypatch.setattr(on_fresh_lora, "_sketch", lambda A, AM: sketch(A, AM) / A.shape[1])
    monkeypatch.setattr(on_fresh_lora, "_square", lambda A, AM: square(A, AM) / A.shape[1] ** 2)
    problem = toy_problem("lora", family="bert", dtype=torch.float64, r=1)
    assert [row.holds for row in check_on_model(problem, ["T55", "T56"], seed=3).rows] == [False] * 4


NETWORK_DTYPE = ("T58a", "T29", "T31", "T15", "T40", "T04b", "T05a", "T17a")  # both sides are computed in it


@pytest.mark.parametrize(("family", "seeds"), [("bert", 1), ("llama", 3)])
def test_rounding_of_the_network_violates_nothing(family, seeds) -> None:
    for seed in range(seeds):
        problem = toy_problem("lora", family=family, dtype=torch.float32, r=1)
        for row in check_on_model(problem, NETWORK_DTYPE, seed=seed).rows:
            assert row.holds is True, row


def test_a_violation_that_is_no_rounding_is_seen_in_float32(monkeypatch) -> None:
    problem = toy_problem("lora", dtype=torch.float32, r=1)
    first_step, grad = on_network._first_step, autodiff.grad

    def longer(probe):
        change, *rest = first_step(probe)
        return 1.01 * change, *rest

    monkeypatch.setattr(on_network, "_first_step", longer)
    assert check_on_model(problem, ["T29"]).rows[0].holds is False
    probe = Probe(problem)
    assert probe.rounding < 1e-3  # measured with the right gradients
    monkeypatch.setattr(Probe, "rounding", probe.rounding)
    monkeypatch.setattr(autodiff, "grad", lambda f, x: 1.01 * grad(f, x))
    assert check_on_model(problem, ["T31"]).rows[0].holds is True  # all the same factor: no mistake of one
    vjp = autodiff.vjp
    monkeypatch.setattr(autodiff, "vjp", lambda f, x: (vjp(f, x)[0], lambda v: 1.01 * vjp(f, x)[1](v)))
    assert check_on_model(problem, ["T31"]).rows[0].holds is False


def test_a_type_without_digits_measures_nothing() -> None:
    problem = toy_problem("lora", dtype=torch.bfloat16, r=1)
    (row,) = check_on_model(problem, ["T29"]).rows
    assert row.holds is None
    assert "bfloat16" in row.hypotheses


def test_the_command_ends_with_1_where_a_theorem_is_violated(monkeypatch, tmp_path) -> None:
    from deltatheory.cli import app

    problem = toy_problem("lora", dtype=torch.float64, r=1)
    monkeypatch.setattr("deltatheory.problems.Setup.classification", lambda *_: problem)
    command = ["check", "T43a", "--out", str(tmp_path), "--no-progress"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    monkeypatch.setattr(on_models, "get_theorem", lambda id: replace(THEOREMS[id], kind="lower"))
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "Violated beyond rounding: T43a" in done.stderr
    assert json.loads((tmp_path / "check.json").read_text())["rows"][0]["holds"] is False


def test_what_a_model_does_not_have_is_said() -> None:
    problem = toy_problem("lora", family="gpt2", dtype=torch.float64, r=1)
    (row,) = check_on_model(problem, ["T48a"]).rows
    assert row.hypotheses.startswith("not applicable")
    assert row.holds is None
    assert row.to_dict()["left"] is None  # JSON has no NaN
    (row,) = check_on_model(problem, ["T27a"]).rows  # query, key and value are one module
    assert row.hypotheses.startswith("not applicable")


def test_unknown_ids_are_told() -> None:
    problem = toy_problem("lora", r=1)
    with pytest.raises(ValueError, match="no such theorem"):
        check_on_model(problem, ["T99"])
    with pytest.raises(ValueError, match="not measured on models"):
        check_on_model(problem, ["T08"])


def test_a_statement_stands_for_those_of_its_parts_that_are_measured() -> None:
    assert measured(["T04", "T02", "T04b"]) == ["T04a", "T04b", "T02"]
    assert measured(["T01"]) == ["T01a", "T01b"]  # T01c is not measured
    assert measured() == sorted(ON_MODELS)


def test_the_result_writes_one_file_and_draws_itself(result, tmp_path) -> None:
    assert result.save(tmp_path) == tmp_path / "report.html"
    assert {path.name for path in tmp_path.iterdir()} == {"answer.json", "check.json", "report.html"}
    stored = json.loads((tmp_path / "check.json").read_text())
    assert list(stored) == ["rows", "settings", "provenance"]
    assert stored["settings"]["seed"] == 3
    assert [row["id"] for row in stored["rows"]] == [row.id for row in result.rows]
    (axes,) = result.plot().axes
    assert {label.get_text().split()[0] for label in axes.get_yticklabels()} == {r.id for r in result.rows}


def test_the_command_tells_a_typo_before_it_loads_a_model(monkeypatch) -> None:
    from deltatheory.cli import app

    def load(*_args, **_options):
        raise AssertionError

    monkeypatch.setattr("deltatheory.problems.setup.load_backbone", load)
    done = CliRunner().invoke(app, ["check", "T99"])
    assert done.exit_code == 2
    assert "Error: id='T99': no such theorem" in done.stderr


def test_operator_norm_is_the_largest_singular_value() -> None:
    M = torch.diag(torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64))
    value, direction = operator_norm(lambda x: M @ x, torch.zeros(3).double(), torch.ones(3).double(), 30)
    assert value == pytest.approx(3)
    assert abs(direction[0]) == pytest.approx(1)


def test_the_softmax_row_against_a_dense_jacobian(rows) -> None:
    probe = Probe(toy_problem("lora", family="bert", dtype=torch.float64, r=1), seed=3)
    scores = torch.from_numpy(probe.head["k"] @ probe.head["q"][1]) / math.sqrt(probe.head["k"].shape[1])
    J = torch.autograd.functional.jacobian(lambda s: s.softmax(0), scores).numpy()
    assert rows["T43a"].left == pytest.approx(np.linalg.norm(J, 2))


def test_an_encoder_decoder_is_measured_in_its_encoder() -> None:
    """The decoder has one token, and rows of several met an index out of bounds; T5's norms do not centre."""
    problem = toy_problem("lora", family="t5", head="verbalizer", r=2)
    found = check_on_model(problem, ["T24", "T31", "T47a"])
    assert [row.holds for row in found.rows] == [True] * 3
