"""The command line: fast to answer, the same as the library, and plain about bad input."""

import functools
import inspect
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sample_results import UNREACHED, a_result
from tiny_models import tiny
from typer.testing import CliRunner

import deltatheory.adapters.adapter
import deltatheory.advice
import deltatheory.backbones
import deltatheory.dimension
from deltatheory import __version__
from deltatheory.advice import Advice, Candidate, Estimate
from deltatheory.autodiff import DerivativeError
from deltatheory.cli import app
from deltatheory.cli.dimension import dimension as dimension_command
from deltatheory.deltas import DELTAS, make_delta
from deltatheory.deltas.files import save_delta
from deltatheory.dimension import Criterion, DimensionSettings
from deltatheory.problems import Setup
from deltatheory.projections import PROJECTIONS
from deltatheory.tasks import EMBEDDED

ROOT = Path(__file__).parents[2]
COMMANDS = ("dimension", "train", "advise", "explain", "tasks", "deltas", "projections")

ADVICE = Advice(
    ranked=[
        Estimate("lora", {"r": 2}, 0.9, 0.8, 0.95, 1024, 12288, 0.5, True),
        Estimate("full", {}, 0.91, 0.85, 0.97, 4448, 53376, 0.9, False),
    ],
    frozen=0.5,
    winner="lora r=2",
    adapter_config={"r": 2},
    findings=["Ties: none"],
    passes=448.0,
    seconds=3.0,
    provenance={},
)


def run_process(*args: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    start = "from deltatheory.cli import app; app(prog_name='deltatheory')"
    return subprocess.run(
        [sys.executable, *flags, "-c", start, *args],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def run(*args: str):
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def stand_in(monkeypatch):
    """In place of a run: what it was called with, and what it shall do."""
    calls: list[dict] = []

    def answer(result=None, error: BaseException | None = None):
        def intrinsic_dimension(setup, **options):
            calls.append({"setup": setup, **options})
            if error is not None:
                raise error
            return result

        monkeypatch.setattr(deltatheory.dimension, "intrinsic_dimension", intrinsic_dimension)
        return calls

    return answer


def test_help_answers_at_once_and_imports_nothing_heavy():
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        done = run_process("--help")
        seconds.append(time.perf_counter() - began)
        assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout
    # 0.2 s on an idle machine, where the promise is 0.5; a loaded one gets the rest.
    assert statistics.median(seconds) < 1.5
    imported = run_process("dimension", "--help", flags=("-X", "importtime")).stderr
    names = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in imported.splitlines() if "|" in line}
    assert "typer" in names
    assert not names & {"torch", "transformers", "numpy", "scipy", "matplotlib", "jinja2", "rich"}


def test_version():
    assert run("--version").output.strip() == f"deltatheory {__version__}"


@pytest.mark.parametrize(
    ("command", "names"), [("tasks", EMBEDDED), ("deltas", DELTAS), ("projections", PROJECTIONS)]
)
def test_lists_have_one_row_a_name(command, names):
    result = run(command)
    assert result.exit_code == 0, result.output
    first_words = [line.split()[0] for line in result.output.splitlines() if line.strip()]
    for name in names:
        assert first_words.count(name) == 1


def test_options_and_defaults_are_those_of_the_library():
    command = inspect.signature(dimension_command).parameters
    makers = (Setup, DimensionSettings, Criterion)
    known = {n: p.default for kind in makers for n, p in inspect.signature(kind).parameters.items()}
    assert set(command) - {"method", "out", "progress"} == set(known) - {"suffix"}
    del known["suffix"], known["train_examples"]  # the command takes 512 of them, for its time
    assert {name: command[name].default for name in known} == known


def test_every_option_reaches_the_function(stand_in, tmp_path):
    calls = stand_in(a_result())
    given = (
        "--model m --task t --method measure --projection srdct --head probe --scope all --fraction 0.8 "
        "--baseline 0.95 --corrected --steps 7 --batch-size 3 --train-examples 0 --test-examples 99 "
        f"--max-length 32 --runs 2.5 --precision 0.5 --burn-in 3 --seed 4 --device cuda:1 "
        f"--out {tmp_path} --no-progress"
    )
    result = run("dimension", *given.split())
    assert result.exit_code == 0, result.output
    (call,) = calls
    chosen = {"head": "probe", "test_examples": 99, "max_length": 32, "seed": 4, "device": "cuda:1"}
    assert repr(call["setup"]) == repr(Setup("m", "t", **chosen))
    assert call["settings"] == DimensionSettings(
        projection="srdct", scope="all", steps=7, batch_size=3, runs=2.5, precision=0.5, burn_in=3
    )
    assert call["criterion"] == Criterion(0.8, 0.95, True)
    assert call["method"] == "measure"
    assert call["log"].path == tmp_path / "trials.jsonl"
    assert (tmp_path / "report.html").exists()


def test_results_come_as_a_table_with_what_missed_and_where_the_page_is(stand_in, tmp_path):
    stand_in(a_result(measured=UNREACHED))
    output = run("dimension", "--out", str(tmp_path)).output
    assert re.search(r"predicted before training +190 +90–400 +0.800", output)
    assert re.search(r"measured by training +not reached +above 3.300", output)
    assert "the level 0.8 is not reached at d <= 4096" in output
    assert "Linearization: <b>12 %</b> & more." in output
    assert (tmp_path / "report.html").as_uri() in output


BAD = [
    (("--task", "stdlib-topic"), "stdlib-topics"),
    (("--task", "absent.jsonl"), "absent.jsonl"),
    (("--projection", "hashd"), "hashed"),
    (("--fraction", "1.5"), "fraction=1.5"),
    (("--steps", "0"), "steps=0"),
    (("--method", "guess"), "measure"),
]


@pytest.mark.parametrize(
    ("options", "named"), BAD, ids=lambda x: " ".join(x) if isinstance(x, tuple) else None
)
def test_bad_input_is_one_line_and_exit_code_2(options, named, tmp_path):
    result = run("dimension", *options, "--out", str(tmp_path / "new"))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    if result.stderr.startswith("Error: "):  # else it is typer's own, about a choice
        assert result.stderr.count("\n") == 1


def test_an_unknown_task_has_no_traceback_in_a_real_process():
    done = run_process("dimension", "--task", "stdlib-topic")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: Unknown task 'stdlib-topic'.")
    assert "stdlib-topics" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [ValueError("x=1:\n  no"), FileNotFoundError("no f"), DerivativeError("d"), OSError(28, "full", "f")],
)
def test_what_the_library_says_of_bad_input_is_one_line(stand_in, error):
    stand_in(error=error)
    result = run("dimension")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert " ".join(str(error).split()) in result.stderr


def test_a_fault_of_the_library_keeps_its_traceback(stand_in):
    stand_in(error=RuntimeError("a bug"))
    assert isinstance(run("dimension").exception, RuntimeError)


def test_a_run_that_is_stopped_says_how_to_go_on(stand_in, tmp_path):
    stand_in(error=KeyboardInterrupt())
    result = run("dimension", "--out", str(tmp_path))
    assert result.exit_code == 130
    assert f"kept in {tmp_path}" in result.stderr


# train


@pytest.fixture
def tiny_folder(tmp_path):
    from tiny_models import tiny_model, tiny_tokenizer

    def make(family: str) -> str:
        folder = tmp_path / family
        tiny_model(family).save_pretrained(folder)
        tiny_tokenizer(family).save_pretrained(folder)
        return str(folder)

    return make


def rows_of(path: Path, generation: bool = False) -> str:
    """A file of texts whose letters tell the label."""
    lines = []
    for i in range(60):
        text = " ".join("abcdefgh"[(i * k + i // 2) % 4 + 4 * (i % 2)] for k in range(1, 4 + i % 3))
        split = ("train", "train", "train", "dev", "test")[i // 2 % 5]
        answer = {"target": text[-1]} if generation else {"label": "pq"[i % 2]}
        lines.append(
            json.dumps({"text": f"{text} {'ijklmnop'[i // 8]} {'ijklmnop'[i % 8]}", "split": split, **answer})
        )
    path.write_text("\n".join(lines))
    return str(path)


def trained(folder: Path, *args: str):
    common = "--steps 8 --batch-size 8 --learning-rate 0.05 --no-progress"
    return run("train", *common.split(), "--out", str(folder), *args)


def test_train_writes_numbers_and_a_delta_that_loads(tiny_folder, tmp_path):
    from deltatheory.backbones import load_backbone
    from deltatheory.deltas.files import load_delta

    model, task = tiny_folder("bert"), rows_of(tmp_path / "task.jsonl")
    given = ("--model", model, "--task", task, "--option", "r=2", "--option", 'targets=["query"]')
    done = trained(
        tmp_path / "out", *given, "--evaluate-every", "4", "--optimizer", "sgd", "--momentum", "0.5"
    )
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["settings"]["training"]["momentum"] == 0.5
    assert result["settings"]["delta"]["r"] == 2
    assert [row["step"] for row in result["dev"]] == [4, 8]
    assert len(result["losses"]) == 8
    backbone = load_backbone(model)
    delta, values = load_delta(tmp_path / "out" / "delta.safetensors", backbone)
    assert delta.size == result["tuned_parameters"] == 2 * 2 * (16 + 16)
    assert float(values.norm()) == pytest.approx(result["movement"])
    assert result["full"]["tuned_parameters"] > 10 * delta.size
    assert re.search(r"tuned parameters +128 +[0-9,]+ +0\.0", done.output)
    assert f"accuracy {result['test']['accuracy']:.3f}" in done.output


def test_train_goes_on_after_a_kill_and_refuses_another_run(tiny_folder, tmp_path, monkeypatch):
    import deltatheory.training
    import deltatheory.training.trainer as training_module

    given = ("--model", tiny_folder("bert"), "--task", rows_of(tmp_path / "task.jsonl"), "--no-compare")
    assert trained(tmp_path / "whole", *given).exit_code == 0
    often = functools.partial(training_module.train, checkpoint_every=2)
    monkeypatch.setattr(deltatheory.training, "train", often)
    evaluate = training_module.Training.rate

    def stop(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return evaluate(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(training_module.Training, "rate", stop)
        stopped = trained(tmp_path / "cut", *given)
    assert stopped.exit_code == 130
    assert f"kept in {tmp_path / 'cut'}" in stopped.stderr
    assert not (tmp_path / "cut" / "result.json").exists()
    assert trained(tmp_path / "cut", *given).exit_code == 0
    whole, cut = (tmp_path / name / "delta.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    other = trained(tmp_path / "cut", *given, "--seed", "1")
    assert other.exit_code == 2
    assert "is of another run" in other.stderr


def test_train_takes_label_words_and_generation_tasks(tiny_folder, tmp_path):
    model = tiny_folder("gpt2")
    words, targets = rows_of(tmp_path / "words.jsonl"), rows_of(tmp_path / "targets.jsonl", generation=True)
    done = trained(
        tmp_path / "a",
        "--model",
        model,
        "--task",
        words,
        "--head",
        "verbalizer",
        "--suffix",
        " o",
        "--no-compare",
    )
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "a" / "result.json").read_text())["settings"]["head"] == "verbalizer"
    done = trained(tmp_path / "b", "--model", model, "--task", targets, "--max-new-tokens", "3")
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "b" / "result.json").read_text())
    assert result["test"].keys() == {"exact_match", "rouge_l", "token_f1", "loss"}
    assert result["settings"]["max_new_tokens"] == 3


def test_the_bar_shows_loss_score_passes_and_time_left(tiny_folder, tmp_path):
    given = (
        "--model",
        tiny_folder("bert"),
        "--task",
        rows_of(tmp_path / "task.jsonl"),
        "--evaluate-every",
        "2",
    )
    done = run("train", *given, "--steps", "6", "--no-compare", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert re.search(r"6/6 .*<.*loss \d\.\d+, accuracy \d\.\d+, \S+ passes", done.stderr)


class FakeTrackio:
    """What `deltatheory` uses of trackio, written down."""

    def __init__(self):
        self.runs, self.rows, self.finished = [], [], 0

    def init(self, project, **settings):
        self.runs.append((project, settings))
        return self

    def log(self, metrics, step):
        self.rows.append((step, metrics))

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_is_tracked_where_that_is_asked_for(tiny_folder, tmp_path, monkeypatch, asked):
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake if asked else None)
    given = ("--model", tiny_folder("bert"), "--task", rows_of(tmp_path / "task.jsonl"), "--no-compare")
    track = ("--track", "letters") if asked else ()
    done = trained(tmp_path / "out", *given, "--evaluate-every", "4", *track)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    if not asked:
        assert fake.runs == fake.rows == []
        return
    ((project, settings),) = fake.runs
    assert project == "letters"
    assert settings["config"] == result["settings"]
    assert settings["resume"] == "allow"
    assert settings["name"].startswith("lora-")
    expected = [
        (
            row["step"],
            {
                "dev/accuracy": row["accuracy"],
                "dev/loss": row["loss"],
                "train/loss": statistics.mean(result["losses"][row["step"] - 4 : row["step"]]),
            },
        )
        for row in result["dev"]
    ]
    expected.append((8, {f"test/{name}": value for name, value in result["test"].items()}))
    assert fake.rows == expected
    assert fake.finished == 1


def test_tracking_without_trackio_names_the_extra(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)  # an import of it fails
    given = ("--model", tiny_folder("bert"), "--task", rows_of(tmp_path / "task.jsonl"), "--track", "p")
    done = trained(tmp_path / "out", *given)
    assert done.exit_code == 2
    assert "Error: track='p' needs trackio: pip install 'deltatheory[tracking]'" in done.stderr
    assert not (tmp_path / "out").exists()


BAD_TRAINING = [
    (("--option", "r"), "option='r': must be NAME=VALUE"),
    (("--option", "rank=2"), "option 'rank': the delta 'lora' has none of that name; it takes r, alpha"),
    (("--delta", "lor"), "nearest: lora"),
    (("--delta", "subspace"), "option 'd': the delta 'subspace' needs it"),
    (("--clip", "0"), "clip=0.0"),
    (("--patience", "2"), "needs evaluate_every"),
    (("--autocast",), "autocast=True"),
    (("--head", "verbalizer"), "take a causal checkpoint"),
    (("--train-examples", "0"), "train_examples=0: must be at least 1"),
]


@pytest.mark.parametrize(("options", "named"), BAD_TRAINING)
def test_bad_input_of_train_is_one_line(tiny_folder, tmp_path, options, named):
    given = ("--model", tiny_folder("bert"), "--task", rows_of(tmp_path / "task.jsonl"))
    done = trained(tmp_path / "out", *given, *options)
    assert done.exit_code == 2, done.output
    assert named in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("Error: ")
    assert not (tmp_path / "out" / "result.json").exists()


def test_advice_comes_as_a_table_a_figure_and_numbers(monkeypatch, tmp_path):
    calls = []

    def advise(setup, **options):
        calls.append({"setup": setup, **options})
        return ADVICE

    monkeypatch.setattr(deltatheory.advice, "advise", advise)
    given = "--model m --task t --max-parameters 1000 --steps 7 --examples 9 --seed 4 --no-progress"
    result = run("advise", *given.split(), "--candidate", "lora r=2", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert repr(calls[0]["setup"]) == repr(Setup("m", "t", seed=4))
    assert calls[0]["candidates"] == [Candidate("lora", {"r": 2})]
    assert (calls[0]["max_parameters"], calls[0]["steps"], calls[0]["examples"]) == (1000, 7, 9)
    assert re.search(r"lora r=2 +0.900 +0.800–0.950 +1,024 +0.01", result.output)
    assert re.search(r"full .*outside", result.output)
    assert "Ties: none" in result.output
    assert json.loads((tmp_path / "advice.json").read_text())["winner"] == "lora r=2"
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {"r": 2}
    assert "<svg" in (tmp_path / "advice.svg").read_text()


def test_deltas_are_counted_in_a_model(monkeypatch):
    monkeypatch.setattr(deltatheory.backbones, "load_backbone", lambda _: tiny("llama"))
    output = run("deltas", "--model", "m").output
    size = make_delta("lora", tiny("llama")).size
    assert re.search(rf"lora +reparameterization .* no +{size:,}", output)
    assert re.search(r"bitfit .*as its options say", output)  # a llama has no biases
    assert re.search(r"subspace .*as its options say", output)


def test_an_adapter_is_explained_in_a_table_and_left_smaller(monkeypatch, tmp_path):
    backbone = tiny("bert")
    delta = make_delta("lora", backbone, r=3)
    point = torch.randn(delta.size, generator=torch.Generator().manual_seed(0))
    save_delta(tmp_path / "delta.safetensors", delta, point)
    monkeypatch.setattr(deltatheory.adapters.adapter, "load_backbone", lambda _: backbone)
    result = run("explain", str(tmp_path / "delta.safetensors"), "--model", "m", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert re.search(r"layer.0.attention.self.query +[0-9.]+ +3 +3 +3", result.output)
    assert json.loads((tmp_path / "explanation.json").read_text())["total_rank"] == 12
    assert (tmp_path / "truncated" / "adapter_model.safetensors").exists()
    refused = run("explain", str(tmp_path / "nothing"), "--out", str(tmp_path))
    assert refused.exit_code == 2
    assert "Traceback" not in refused.output
