"""All studies on tiny networks, from the first trial to the page."""

import json
import math
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from tiny_models import tiny
from tiny_problems import copy_task, toy_task

from deltatheory.dimension import Criterion
from deltatheory.problems import GenerationProblem
from deltatheory.results import ResultLog
from experiments import environment
from experiments.environment import Environment
from experiments.kinds import KINDS
from experiments.page import write_page
from experiments.runner import LOG, Local, run
from experiments.scope import Scope, TaskInfo
from experiments.studies import (
    STUDIES,
    combinations,
    dimension,
    feedback,
    learning_rate,
    methods,
    places,
    prediction,
    pretraining,
    reference,
    scale,
    studies_of,
)
from experiments.studies.convergence import steps_of_loss, steps_to_90
from experiments.trial import Known, Trial

NAMES = ["some/a", "some/b", "some/c", "some/d"]
FAMILIES = [1, 4, 5, 0]  # three of the calibration half, one held out
TASKS_HERE = [TaskInfo(n, "c", f"family {i}") for n, i in zip(NAMES, FAMILIES, strict=True)]
SCOPE = Scope(("gpt-1M",), tuple(TASKS_HERE), (0,))
MORE_SEEDS = replace(SCOPE, seeds=(0, 1))
SEVERAL = (
    "transfer",
    "prediction",
    "subspace",
    "learning_rate",
    "smallest",
)  # studies that say nothing of one task alone

UNFED = ("sharpening", "relinearization")  # want six runs of three tasks, and tasks by their names


def scope_of(name):
    return SCOPE if name in SEVERAL else replace(SCOPE, tasks=SCOPE.tasks[:1])


class Tiny(Environment):
    """Networks and tasks of the tests under the names of the scope."""

    def backbone(self, name):
        return BACKBONES[name.partition("/")[0]]  # a snapshot is its end, here

    def task(self, trial):
        return TASKS[trial.task]


BACKBONES = {"gpt-1M": tiny("gpt2")}
TASKS = {name: replace(toy_task(2, train=20 + 2 * i, test=60), name=name) for i, name in enumerate(NAMES)}


def less(settings, example):
    """Return settings with the numbers of a kind's example, which are small."""
    return {
        key: less(value, example[key])
        if isinstance(value, dict) and isinstance(example.get(key), dict)
        else example[key]
        if isinstance(example.get(key), int | float)
        else value
        for key, value in settings.items()
    }


def quick(kind):
    """Return a kind whose trials are small; a study does not know."""

    def run(trial, place):
        return kind.run(replace(trial, settings=less(trial.settings, kind.EXAMPLE.settings)), place)

    return SimpleNamespace(run=run, EXAMPLE=kind.EXAMPLE)


def shorten(patch):
    """Make the trials of all studies small, and of some of them few."""
    for name, kind in KINDS.items():
        if hasattr(kind, "EXAMPLE"):
            patch.setitem(KINDS, name, quick(kind))
    patch.setattr(environment, "_SUFFIX", " p")
    patch.setattr(methods, "RATES", (1e-2,))
    patch.setattr(methods, "_FIRST", 0)
    patch.setattr(methods, "_TUNING_TASKS", 1)
    patch.setattr(combinations, "permutations", lambda some, n: [tuple(some[:n])])
    patch.setattr(reference, "DIMENSIONS", (2, 8, 32))
    patch.setattr(reference, "MIDDLE", 8)
    patch.setattr(learning_rate, "GRID", learning_rate.GRID[3:5])
    patch.setattr(learning_rate, "SEEN", learning_rate.SEEN[4:5])
    patch.setattr(learning_rate, "UNSEEN", learning_rate.UNSEEN[:1])
    patch.setattr(pretraining, "SNAPSHOTS", {"gpt-1M": (1,)})
    patch.setattr(places, "NAMES", {"gpt-1M": ("h.{}.{}", 2)})
    patch.setattr(places, "MODULES", ("attn.c_attn", "mlp.c_fc"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, worker_id):
    """The log and the pages of all studies, made by the first process of the tests that asks."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "study"
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        patch.setattr(import_module("deltatheory.dimension.predict"), "FOLDS", 3)
        patch.setattr(methods, "FAMILY", "no family")  # label words: a fitted probe leaves little to gain
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                run_all(folder)
        yield folder


def run_all(folder):
    left = {
        name: run(study, scope_of(name), folder, Tiny(), Local(), say=lambda _: None)
        for name, study in STUDIES.items()
    }
    rows = ResultLog(folder / LOG).rows()
    assert not [r["result"]["error"] for r in rows if "error" in r["result"]]
    assert not any(left.values())
    for name, study in STUDIES.items():
        write_page(name, study, scope_of(name), Known(rows), folder)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_claims_something_and_its_trials_are_of_known_kinds(name):
    study = STUDIES[name]
    assert study.CLAIM
    assert study.SOURCE
    trials = list(study.trials(SCOPE, Known([])))  # none where its backbones or its data are not in the scope
    assert {trial.kind for trial in trials} <= KINDS.keys()
    assert all(json.loads(json.dumps(trial.config)) for trial in trials)


@pytest.mark.parametrize("name", STUDIES)
def test_an_empty_log_makes_a_page_that_decides_nothing(name, tmp_path):
    assert write_page(name, STUDIES[name], SCOPE, Known([]), tmp_path) == "undecided"
    assert (tmp_path / name / "report.html").read_text().count("<html") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_study_runs_and_speaks(folder):
    known = Known.read(ResultLog(folder / LOG))
    asked = {trial.kind for study in STUDIES.values() for trial in study.trials(MORE_SEEDS, known)}
    assert asked == {name for name, kind in KINDS.items() if hasattr(kind, "EXAMPLE")}
    for name, study in STUDIES.items():
        result = json.loads((folder / name / "result.json").read_text())
        assert result["numbers"] or name in ("sharpening", "relinearization"), name  # these want six runs
        assert result["verdict"] in ("agrees", "disagrees", "undecided")
        figures = study.findings(scope_of(name), known).figures
        assert "<svg" in (folder / name / "report.html").read_text() or not figures


@pytest.mark.slow
def test_d90_is_measured_again_with_another_seed_and_without_a_prediction(folder):
    rows = ResultLog(folder / LOG).rows()
    scope, known = MORE_SEEDS, Known(rows)
    wanted = [t for t in dimension.trials(scope, known) if t.kind == "measurement"]
    assert [(t.task, t.seed) for t in wanted] == [(name, 1) for name in NAMES]
    result = KINDS["measurement"].run(wanted[0], Tiny())
    first = known.get(dimension.trial(scope, "gpt-1M", TASKS_HERE[0], known))
    assert set(result["d90"]) == {"measured"}
    assert result["level"]["measured"] == first["level"]["measured"]
    assert [p["seed"] for p in result["curve"]] != [p["seed"] for p in first["curve"]]
    assert dimension.remeasured(scope, "gpt-1M", TASKS_HERE[0], known) == []

    def with_d90(trial, value):
        return {"hash": trial.hash, "result": {**first, "d90": {**first["d90"], "measured": d90(value)}}}

    def d90(value):
        return {"value": value, "low": None, "high": None}

    searches = [dimension.trial(scope, "gpt-1M", task, known) for task in TASKS_HERE]
    rows += [with_d90(t, v) for t, v in zip(searches, (10.0, 20.0, 40.0, None), strict=True)]
    rows += [with_d90(t, v) for t, v in zip(wanted, (10.0, 60.0, 50.0, 80.0), strict=True)]
    numbers = dimension.findings(scope, Known(rows)).numbers["gpt-1M, measured again"]
    within = pytest.approx(2 / 3)
    assert numbers == {
        "pairs": 3,
        "once": 1,
        "spearman": 0.5,
        "within_factor_two": within,
        "median_factor": 1.25,
    }


def test_what_the_first_search_could_lead_is_told_from_what_it_could_not():
    values = {"half": "held-out", **dict.fromkeys(prediction.WAYS)}
    pairs = [(100, 120.0, [90.0]), (10, 12.0, [13.0]), (50, 40.0, [200.0, 60.0]), (7, 9.0, [])]
    rows = [{**values, prediction.WAYS[0]: a, "measured": b, "again": c} for a, b, c in pairs]
    rows.append({**values, prediction.WAYS[0]: 5, "measured": 5.0, "again": [9e9], "half": "calibration"})
    _, numbers = prediction._ceiling("m", rows)
    assert set(numbers) == {f"m, {x}, against d90 measured again" for x in ("measured", prediction.WAYS[0])}
    first, predicted = (
        numbers[f"m, {x}, against d90 measured again"] for x in ("measured", prediction.WAYS[0])
    )
    assert (first["pairs"], first["within_factor_two"]) == (4, 0.75)
    assert first["median_factor"] == pytest.approx(math.sqrt(1.5 * 4 / 3))
    assert predicted["median_factor"] == pytest.approx(math.sqrt(1.2 * 1.3))


@pytest.mark.slow
def test_what_margins_said_of_more_than_two_classes_is_predicted_anew(folder):
    rows = ResultLog(folder / LOG).rows()
    for row in rows:
        if row["config"]["task"] == NAMES[0] and row["config"]["kind"] == "frozen":
            row["result"]["classes"] = 3
        elif row["config"]["kind"] == "dimension":
            del row["result"]["diagnostics"]["logit_differences"]
    known = Known(rows)
    (again,) = (trial for trial in prediction.trials(SCOPE, known) if trial.kind == "prediction")
    assert [row["task"] for row in prediction._rows(SCOPE, "gpt-1M", known)] == NAMES[1:]
    result = KINDS["prediction"].run(again, Tiny())
    assert "measured" not in result["d90"]
    result["d90"]["predicted"]["value"] = 12345.0
    known = Known([*rows, {"hash": again.hash, "result": result}])
    first, *others = prediction._rows(SCOPE, "gpt-1M", known)
    search = dimension.trial(SCOPE, "gpt-1M", TASKS_HERE[0], known)
    assert first[prediction.WAYS[1]] == 12345.0 != others[0][prediction.WAYS[1]]
    assert first["measured"] == known.get(search)["d90"]["measured"]["value"]
    assert first["cost"]["passes"] == result["passes"]["predict"] / known.get(search)["passes"]["measure"]


@pytest.mark.slow
def test_tasks_drawn_later_leave_earlier_trials_as_they_are(folder, monkeypatch):
    """Also those that name several tasks; a round of 4 is full here, a fifth task begins the next."""
    monkeypatch.setattr(import_module("experiments.scope"), "_ROUND", 4)
    known = Known(ResultLog(folder / LOG).rows())
    more = replace(SCOPE, tasks=(*SCOPE.tasks, TaskInfo("some/e", "c", "family 1")))
    for name, study in STUDIES.items():
        before = {trial.hash for trial in study.trials(SCOPE, known)}
        assert before <= {trial.hash for trial in study.trials(more, known)}, name


@pytest.mark.slow
def test_studies_of_generation_are_judged_by_rouge(tmp_path, monkeypatch):
    shorten(monkeypatch)
    evaluate, others = GenerationProblem.evaluate, {"exact_match": -1.0, "token_f1": -1.0}
    monkeypatch.setattr(GenerationProblem, "evaluate", lambda *arguments: evaluate(*arguments) | others)
    monkeypatch.setattr(methods, "RATES", (1e-2,))
    monkeypatch.setitem(TASKS, "some/text", copy_task())
    scope = Scope(("gpt-1M",), (TaskInfo("some/text", "c", "f", "generation"),), (0,))
    for name, study in studies_of("generation").items():
        assert not run(study, scope, tmp_path, Tiny(), Local(), say=lambda _: None)
        rows = ResultLog(tmp_path / LOG).rows()
        write_page(name, study, scope, Known(rows), tmp_path)
        assert json.loads((tmp_path / name / "result.json").read_text())["numbers"], name
    scored = [r["result"] for r in rows if r["config"]["kind"] in ("frozen", "train", "sequence")]
    assert all(r["test"] >= 0 and r.get("train", 0) >= 0 for r in scored)


def test_methods_are_compared_on_the_seeds_that_all_have_run(monkeypatch):
    monkeypatch.setattr(methods, "tuned", lambda *_: (0.1, []))
    scope, two = replace(SCOPE, seeds=(0, 1, 2)), methods.METHODS[:2]
    ran = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]  # the second method lacks seed 1
    trials = [methods.training("gpt-1M", two[m], TASKS_HERE[0], 0.1, seed) for m, seed in ran]
    known = Known(
        {"hash": t.hash, "result": {"test": m + seed / 10}} for t, (m, seed) in zip(trials, ran, strict=True)
    )
    tasks, values = methods.table_of(scope, "gpt-1M", two, known, lambda result, _: result["test"])
    assert tasks == TASKS_HERE[:1]
    assert values == pytest.approx(np.array([[0.1, 1.1]]))


def test_siblings_count_once():
    tasks = [TaskInfo(name, "c", family) for name, family in (("a1", "a"), ("b", "b"), ("a2", "a"))]
    values = np.array([[1.0, np.nan], [5.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(methods.by_family(tasks, values), [[2.0, 4.0], [5.0, 2.0]])
    np.testing.assert_array_equal(methods.by_family(tasks, values[:, 0]), [[2.0], [5.0]])
    assert methods.counted(tasks) == "3 tasks of 2 families"


@pytest.mark.parametrize(("families", "verdict"), [(5, "undecided"), (6, "agrees")])
def test_an_order_needs_six_families(families, verdict):
    values = np.stack([np.linspace(0.8, 0.9, families), np.linspace(0.1, 0.3, families)], 1)
    assert methods.check_order(values, ("a", "b"), ("a", "b")).verdict == verdict
    mirrored = methods.check_order(values, ("a", "b"), ("b", "a")).verdict
    assert mirrored == ("disagrees" if verdict == "agrees" else "undecided")
    without = np.concatenate([values[:5], np.full((9, 2), np.nan)])  # those without a gain do not count
    assert methods.check_order(without, ("a", "b"), ("a", "b")).verdict == "undecided"


def test_a_backbone_without_biases_has_the_scales_of_its_norms_in_their_place():
    tasks = [TaskInfo("t", "c", "f"), TaskInfo("t", "c", "f", "generation")]
    assert "bitfit" in [m.delta for m in methods.methods("minilm")]
    assert "bitfit" not in [m.delta for m in methods.methods("smollm2")]
    labels = {model: [m.label for m in combinations.chosen(model)] for model in ("minilm", "smollm2")}
    assert [label.replace("BitFit", "LayerNorm") for label in labels["minilm"]] == labels["smollm2"]
    for task in tasks:
        few, many = (methods.examples(model, task) for model in ("smollm2", "gpt-1M"))
        assert all(few[split] < many[split] for split in ("train", "dev", "test"))
        assert methods.frozen("smollm2", task).settings == few


@pytest.mark.parametrize(
    ("first", "last", "verdict"),
    [(90.0, 9.0, "agrees"), (None, 9.0, "agrees"), (9.0, None, "disagrees"), (9.0, 9.0, "undecided")],
)
def test_pretraining_is_judged_by_the_sign_of_the_change(monkeypatch, first, last, verdict):
    monkeypatch.setattr(pretraining, "SNAPSHOTS", {"gpt-1M": (1,)})
    level = Trial("dimension", "gpt-1M", "")
    monkeypatch.setattr(dimension, "trial", lambda scope, model, task, known: replace(level, task=task.name))
    scope = replace(SCOPE, tasks=tuple(TaskInfo(f"t{i}", "c", f"f{i}") for i in range(8)))
    rows = []
    for task in scope.tasks:
        for model, value in zip(pretraining.stages("gpt-1M").values(), (first, last), strict=True):
            trial = replace(level, task=task.name, model=model)
            rows.append(
                {"hash": trial.hash, "result": {"frozen": 0.5, "d90": {"measured": {"value": value}}}}
            )
    assert pretraining.findings(scope, Known(rows)).verdict == verdict


@pytest.mark.parametrize(
    ("score", "speed", "d90", "verdict"),
    [
        (0.9, 2.0, 9.0, "agrees"),
        (0.4, 2.0, 9.0, "disagrees"),
        (0.9, 0.5, 9.0, "disagrees"),
        (0.9, 2.0, None, "disagrees"),
        (0.5, 2.0, 9.0, "undecided"),
        (0.9, 1.0, 9.0, "undecided"),
        (0.9, 2.0, 0.0, "undecided"),
    ],
)
def test_scale_is_judged_by_accuracy_steps_and_d90(monkeypatch, score, speed, d90, verdict):
    monkeypatch.setattr(methods, "tuned", lambda *_: (0.1, []))
    level = Trial("dimension", "", "")
    monkeypatch.setattr(
        dimension, "trial", lambda scope, model, task, known: replace(level, model=model, task=task.name)
    )
    tasks = [TaskInfo(f"t{i}", "c", f"f{i}") for i in range(9)]
    rows = []
    for model, of, (test, rate, value) in (
        ("gpt-1M", tasks[:8], (0.5, 1.0, 90.0)),
        ("gpt-4M", tasks[1:], (score, speed, d90)),
    ):
        losses = [math.exp(-rate * step / 30) for step in range(200)]
        for task in of:
            search = {"frozen": 0.3, "d90": {"measured": {"value": value}}}
            rows.append({"hash": replace(level, model=model, task=task.name).hash, "result": search})
            for method in scale.METHODS_HERE:
                trial = methods.training(model, method, task, 0.1, 0)
                rows.append({"hash": trial.hash, "result": {"test": test, "losses": losses}})
    scope = replace(SCOPE, models=("minilm", "gpt-4M", "gpt-1M"), tasks=tuple(tasks))
    found = scale.findings(scope, Known(rows))
    assert found.verdict == verdict
    assert found.numbers["gpt-4M"] == {"tasks": 7, "mean": dict.fromkeys(scale.LABELS, pytest.approx(score))}
    apart = scale.findings(replace(scope, tasks=(tasks[0], tasks[8])), Known(rows))
    assert apart.verdict == "undecided"  # two sizes, without a task in common


def test_a_card_without_weights_says_what_makes_them(tmp_path, monkeypatch):
    (tmp_path / "gpt-4M").mkdir()
    monkeypatch.setattr(environment, "BACKBONES", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"models='gpt-4M'.*gpt-4M/README\.md"):
        Environment().backbone("gpt-4M")


def test_steps_to_90_percent_are_those_of_a_hand():
    dev = [[6, 0.5, 1.0], [12, 0.85, 0.6], [18, 0.9, 0.5], [24, 0.88, 0.4]]
    assert steps_to_90({"dev": dev}, 0.5) == 18  # 0.5 + 0.9 x 0.4 = 0.86
    assert steps_to_90({"dev": dev}, 0.3) == 12  # 0.3 + 0.9 x 0.6 = 0.84
    assert steps_to_90({"dev": dev}, 0.89) is None
    falling = [100.0 - i for i in range(100)]  # whole numbers: no rounding decides
    assert steps_of_loss(falling) == 82  # of 90 windows, nine tenths of the way
    assert steps_of_loss([1.0] * 40) is None
    assert steps_of_loss(falling[:10]) is None


def test_a_level_that_no_d_reaches_is_above_all_d():
    before, after = (
        dimension.with_unreached([5, None, 3, None, 8]),
        dimension.with_unreached([1, 9, 4, None, 7]),
    )
    assert before.tolist() == [5, math.inf, 3, math.inf, 8]
    fall = dimension.fall(before, after)
    assert (fall.fell, fall.rose) == (3, 1)
    assert fall.p == pytest.approx(10 / 16)  # P(no or one of four coins, or all or all but one)
    assert fall.verdict == "undecided"
    assert dimension.fall(np.ones(8), np.zeros(8)).verdict == "agrees"
    assert dimension.fall(np.zeros(8), np.ones(8)).verdict == "disagrees"


_OWN = 10 ** ((0.72 - 0.5) / (0.8 - 0.5))  # where a line from .5 at 1 to .8 at 10 crosses .9 x .8


@pytest.mark.parametrize(
    ("frozen", "full", "ways"),
    [
        (0.5, 1.0, (_OWN, 7.0, 10**0.8)),  # of .5 + .8 x .3
        (0.4, 0.4, (_OWN, 7.0, 0)),  # fine-tuning gains nothing: the frozen model is at the level
        (0.9, 1.2, (0, 7.0, None)),  # the linearized network gains nothing
    ],
)
def test_each_way_of_prediction_crosses_its_own_level(frozen, full, ways):
    result = {
        "d90": {"predicted": {"value": 7.0}},
        "frozen": frozen,
        "baseline": {"measured": full},
        "level": {"measured": 0.9 * full},
        "linearized": {"d": [1, 10], "scores": [[0.4, 0.6], [0.8, 0.8]]},
    }
    assert prediction._ways(result) == pytest.approx(ways)


def test_a_refused_prediction_is_a_row_without_one():
    nothing = {"value": None, "low": None, "high": None}
    costs = {"predict": 1.0, "measure": 2.0}
    result = {
        "d90": {"predicted": nothing, "measured": {"value": 5.0}},
        "frozen": 0.5,
        "curve": [],
        "linearized": {"d": [], "scores": []},
        "passes": costs,
        "seconds": costs,
        "diagnostics": {"rank": 1},
    }
    row = prediction._d90(TASKS_HERE[0], result)
    assert [row[way] for way in prediction.WAYS] == [None, None, None]
    found, numbers, holds = prediction._compared("gpt-1M", [row])
    assert not numbers  # nothing is judged, the interval neither
    assert not holds
    assert all("0 of" in sentence for sentence in found)


def test_d90_is_where_a_monotone_fit_crosses_the_level():
    solved = np.repeat([[0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]], 5, axis=1)  # .5 and .25 pool to .375
    crossing, level, baseline = prediction.level_crossing(solved, [1, 2, 4], Criterion(fraction=0.6), 0.5)
    assert (level, baseline) == (pytest.approx(0.6), 1.0)
    assert crossing == pytest.approx(np.log(2) * (1 + (0.6 - 0.375) / (1 - 0.375)))
    assert prediction.level_crossing(solved, [1, 2, 4], Criterion(baseline=1.0, fraction=0.3), 0.5)[0] == 0


def test_a_level_out_of_reach_crosses_at_the_last_dimension():
    crossing = prediction.level_crossing(np.full((2, 4), 0.5), [1, 8], Criterion(baseline=1.0), 0.0)
    assert crossing == (pytest.approx(np.log(8)), 0.9, 1.0)


def test_feedback_takes_the_seeds_that_are_complete_and_says_how_far_its_aim_is(monkeypatch):
    """Of what disturbances take (.4 a condition) the rehearsed PID gives back .75, its probe .5, others 0."""
    monkeypatch.setattr(feedback, "_figure", lambda of: None)
    scope = replace(SCOPE, tasks=SCOPE.tasks[:1], seeds=(0, 1))
    task, given = scope.tasks[0], {"pid, rehearsed": 0.3, "probe, rehearsed": 0.2}
    best = {label: {p: grid[1] for p, grid in of["grids"].items()} for label, of in feedback.FURTHER.items()}
    rows = {}

    def ran(trial, result):
        rows[trial.hash] = {"hash": trial.hash, "result": result}

    def steered(trial, label=""):
        names = trial.settings["policies"]
        return {
            "settings": names,
            "chance": 0.5,
            "latency": {name: {"seconds": 1.0, "added": 0.05} for name in names},
            "rows": [
                {"controller": name, "disturbance": c, "energy": 0.0, "texts": 10}
                | {"accuracy": 0.9 if c == "clean" else 0.5 + given.get(f"{name}, {label}", 0.0)}
                for name in names
                for c in feedback.CONDITIONS
            ],
        }

    known = lambda: Known(rows.values())  # noqa: E731
    one = "one text"
    ran(feedback.choice(scope, "gpt-1M", task, one), {"settings": {"pid": {}, "lqr": {}}})
    for label in feedback.FURTHER:
        ran(feedback.further_choice(scope, "gpt-1M", task, label), {"settings": best[label]})
    for seed in scope.seeds:
        ran(trial := feedback.steering(scope, "gpt-1M", task, one, seed, known()), steered(trial))
        ran(trial := feedback.probing(scope, "gpt-1M", task, one, seed), steered(trial))
    trial = feedback.further(scope, "gpt-1M", task, "rehearsed", 1, known())
    ran(trial, steered(trial, "rehearsed"))
    found = feedback.findings(scope, known())
    assert f"gpt-1M, pid, rehearsed sees one text: {task.name} 75%, +5% time, 1 seeds." in found.found
    assert found.found[-1].endswith("is met by pid, rehearsed.")
    given["probe, rehearsed"] = 0.24
    ran(trial, steered(trial, "rehearsed"))
    assert (
        feedback.findings(scope, known())
        .found[-1]
        .endswith("is met by none; nearest is pid, rehearsed, 0.05 short.")
    )
