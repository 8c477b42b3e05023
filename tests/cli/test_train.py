"""`deltatheory train`: numbers, a delta that loads, and a run that goes on where it was."""

import json
import re
import signal
import statistics
import sys
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace

import pytest
from command_line import letters, quick, run

from deltatheory.backbones import load_backbone
from deltatheory.deltas.files import load_delta, read_tensors
from deltatheory.training import Training


def trained(folder: Path, *args: object):
    return quick("train", "--out", folder, *args)


def results(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_train_writes_numbers_and_a_delta_that_loads(bert, given, tmp_path):
    how = '--option r=2 --option targets=["query"] --evaluate-every 4 --optimizer sgd --momentum 0.5'
    done = trained(tmp_path / "out", *given, *how.split())
    assert done.exit_code == 0, done.output
    result = results(tmp_path / "out")
    assert result["status"] == "finished"
    assert result["settings"]["training"]["momentum"] == 0.5
    assert result["settings"]["delta"]["r"] == 2
    assert [row["step"] for row in result["dev"]] == [4, 8]
    assert len(result["losses"]) == 8
    backbone = load_backbone(str(bert))
    delta, values = load_delta(tmp_path / "out" / "delta.safetensors", backbone)
    assert delta.size == result["tuned_parameters"] == 2 * 2 * (16 + 16)
    assert float(values.norm()) == pytest.approx(result["movement"])
    assert result["full"]["tuned_parameters"] > 10 * delta.size
    assert re.search(r"tuned parameters +128 +[0-9,]+ +0\.0", done.output)
    assert f"accuracy {result['test']['accuracy']:.3f}" in done.output


@pytest.fixture(scope="module")
def whole(bert, task, tmp_path_factory):
    """A run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert trained(folder, "--model", bert, "--task", task, "--no-compare").exit_code == 0
    return folder


@pytest.fixture
def stop_at(monkeypatch):
    """Raise signals within a step, the first of them after `step` whole ones."""
    rate = Training.rate
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

    def stop(step: int, *signals: signal.Signals):
        def rated(self, now):
            for one in signals if now == step else ():
                signal.raise_signal(one)
            return rate(self, now)

        monkeypatch.setattr(Training, "rate", rated)

    yield stop
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_step_that_is_on_and_says_where(given, tmp_path, stop_at, whole, number, code):
    stop_at(5, number)
    stopped = trained(tmp_path, *given, "--no-compare")
    assert stopped.exit_code == code
    file = tmp_path / "checkpoint.safetensors"
    assert f"Stopped by {number.name}. What has finished is kept in {file}" in stopped.stderr
    assert read_tensors(file)[1]["log"]["step"] == 6
    assert not (tmp_path / "result.json").exists()
    stop_at(5)
    assert trained(tmp_path, *given, "--no-compare").exit_code == 0
    assert (tmp_path / "delta.safetensors").read_bytes() == (whole / "delta.safetensors").read_bytes()
    assert results(tmp_path)["losses"] == results(whole)["losses"]


def test_a_second_signal_does_not_wait_for_the_step(given, tmp_path, stop_at):
    stop_at(5, signal.SIGINT, signal.SIGINT)
    stopped = trained(tmp_path, *given, "--checkpoint-every", 2)
    assert stopped.exit_code == 130
    assert read_tensors(tmp_path / "checkpoint.safetensors")[1]["log"]["step"] == 4


def test_two_tasks_in_the_default_folder_and_each_again(bert, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = letters(tmp_path / "other.jsonl", rows=50)
    commands = [("--model", bert, "--task", name, "--no-compare") for name in (task, other)]
    found = []
    for given in [*commands, *commands]:
        done = quick("train", *given)
        assert done.exit_code == 0, done.output
        found.append(Path(re.search(r"Numbers: (.*result.json)", done.output).group(1)))
    assert f"runs/train holds another run; this one is kept in {found[1].parent}." in done.stderr
    assert found[0] == found[2] == Path("runs/train/result.json")
    assert found[1] == found[3] != found[0]
    first, second = (json.loads(path.read_text()) for path in found[:2])
    assert first["settings"]["task"] != second["settings"]["task"]
    assert first["losses"] != second["losses"]


def test_what_has_finished_is_not_trained_again(given, whole, monkeypatch):
    monkeypatch.setattr(Training, "rate", lambda *_: pytest.fail("trained again"))
    assert trained(whole, *given, "--no-compare").exit_code == 0


def test_a_folder_of_an_older_version_goes_on(given, tmp_path, whole, monkeypatch):
    """It does not say whose it is, but its checkpoint does."""
    for name in ("result.json", "checkpoint.safetensors"):
        copyfile(whole / name, tmp_path / name)
    monkeypatch.setattr(Training, "rate", lambda *_: pytest.fail("trained again"))
    done = trained(tmp_path, *given, "--no-compare")
    assert done.exit_code == 0, done.output


def test_a_run_that_diverges_exits_with_1(given, tmp_path):
    done = quick("train", "--out", tmp_path, *given, "--learning-rate", "1e30", "--optimizer", "sgd")
    assert done.exit_code == 1, done.output
    assert "Training diverged" in done.stderr
    assert results(tmp_path)["status"].startswith("diverged")
    assert not (tmp_path / "delta.safetensors").exists()


def test_train_takes_label_words_and_generation_tasks(gpt2, task, tmp_path):
    words = f"--model {gpt2} --task {task} --head verbalizer --no-compare"
    done = trained(tmp_path / "a", *words.split(), "--suffix", " o")
    assert done.exit_code == 0, done.output
    assert results(tmp_path / "a")["settings"]["head"] == "verbalizer"
    targets = letters(tmp_path / "targets.jsonl", generation=True)
    done = trained(tmp_path / "b", "--model", gpt2, "--task", targets, "--max-new-tokens", "3")
    assert done.exit_code == 0, done.output
    result = results(tmp_path / "b")
    assert result["test"].keys() == {"exact_match", "rouge_l", "token_f1", "loss"}
    assert result["settings"]["max_new_tokens"] == 3


def test_the_score_stands_beside_a_constant_the_frozen_model_and_full_fine_tuning(given, tmp_path):
    done = trained(tmp_path, *given, "--score-full")
    assert done.exit_code == 0, done.output
    result = results(tmp_path)
    scores, full = result["scores"], result["full"]
    assert scores["value"] == result["test"]["accuracy"]
    assert scores["low"] < scores["value"] < scores["high"]
    assert scores["constant"] == 0.5
    assert scores["macro_f1"] == pytest.approx(statistics.mean(row["f1"] for row in scores["classes"]))
    assert sum(row["texts"] for row in scores["classes"]) == scores["texts"] == 12
    assert full["test"].keys() == result["test"].keys()
    first = done.stdout.splitlines()[0]
    assert first.startswith(f"Test accuracy {scores['value']:.3f} (90 % interval {scores['low']:.3f}")
    assert f"the frozen model has {scores['frozen']:.3f}, always answering 'p' 0.500" in first
    assert re.search(rf"full fine-tuning +{full['test']['accuracy']:.3f}", done.stdout)
    assert re.search(r"class +precision +recall +F1 +texts", done.stdout)


def test_a_small_table_without_splits_is_scored_by_cross_validation(bert, tmp_path, monkeypatch):
    """Every row is held out from one of five trainings, and a run that is called again trains nothing."""
    rows = [f"{'ae'[i % 2]} {'bcdfghjk'[i // 8]} {'bcdfghjk'[i % 8]},{'pq'[i % 2]}" for i in range(64)]
    (tmp_path / "my.csv").write_text("\n".join(["text,label", *rows]))
    how = ("--model", bert, "--task", tmp_path / "my.csv", "--no-compare", "--steps", 2)
    done = trained(tmp_path / "out", *how)
    assert done.exit_code == 0, done.output
    scores = results(tmp_path / "out")["scores"]
    assert (scores["texts"], scores["trainings"], scores["constant"]) == (64, 5, 0.5)
    first = done.stdout.splitlines()[0]
    assert re.match(r"Test accuracy .* on 64 texts, each held out from one of 5 trainings; the frozen", first)
    assert "Scores come from 5 trainings" in done.stderr
    assert json.loads((tmp_path / "out" / "trainings.json").read_text()).keys() == {*"2345"}
    assert not list((tmp_path / "out").glob("training-*.safetensors"))
    assert results(tmp_path / "out")["test"]["accuracy"] != scores["value"]
    monkeypatch.setattr(Training, "rate", None)  # no step is made again
    assert trained(tmp_path / "out", *how).exit_code == 0
    assert results(tmp_path / "out")["scores"] == scores
    monkeypatch.undo()
    alone = trained(tmp_path / "alone", *how, "--trainings", 1)
    assert "trainings" not in alone.stdout
    assert results(tmp_path / "alone")["scores"]["texts"] < 20


def test_a_head_is_trained_beside_the_delta(given, tmp_path):
    done = trained(tmp_path, *given, "--train-head", "--no-compare")
    assert done.exit_code == 0, done.output
    tensors, note = read_tensors(tmp_path / "delta.safetensors")
    assert (tensors.keys(), note["head"]) == ({"delta", "head.weight", "head.bias"}, "label-words")
    assert results(tmp_path)["tuned_parameters"] == sum(x.numel() for x in tensors.values())
    assert results(tmp_path)["settings"]["delta"]["trained_head"]["kind"] == "label-words"


def test_the_bar_shows_loss_score_passes_and_time_left(given, tmp_path, on_a_terminal):
    how = "--evaluate-every 2 --steps 6 --no-compare"
    done = run("train", *given, *how.split(), "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert re.search(r"6/6 .*<.*loss \d\.\d+, accuracy \d\.\d+, \S+ passes", done.stderr)


class FakeTrackio:
    """What `deltatheory` uses of trackio, written down."""

    def __init__(self):
        self.runs, self.rows, self.finished = [], [], 0

    def init(self, project, **settings):
        print("* project initialized")  # as trackio says it, on standard output
        self.runs.append((project, settings))
        return self

    def log(self, metrics, step):
        self.rows.append((step, metrics))

    def finish(self):
        print("* run finished")
        self.finished += 1


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_is_tracked_where_that_is_asked_for(given, tmp_path, monkeypatch, asked):
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake if asked else None)
    track = ("--track", "trackio:letters") if asked else ()
    done = trained(tmp_path, *given, "--no-compare", "--evaluate-every", "4", *track)
    assert done.exit_code == 0, done.output
    result = results(tmp_path)
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
                "dev/calibrated_loss": row["calibrated_loss"],
                "train/loss": statistics.mean(result["losses"][row["step"] - 4 : row["step"]]),
            },
        )
        for row in result["dev"]
    ]
    expected.append((8, {f"test/{name}": value for name, value in result["test"].items()}))
    assert fake.rows == expected
    assert fake.finished == 1
    assert done.stdout.startswith("Test accuracy")
    assert "* run finished" in done.stderr


def test_tracking_without_trackio_names_the_extra(given, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)  # an import of it fails
    monkeypatch.setitem(sys.modules, "wandb", None)
    for name, said in {
        "trackio:p": "trackio: not installed; pip install 'deltatheory[tracking]'",
        "wandb": "wandb: not installed; pip install wandb",
        "mlflow": "--track='mlflow': must be one of trackio, tensorboard, wandb, or NAME:PROJECT.",
    }.items():
        done = trained(tmp_path, *given, "--track", name)
        assert (done.exit_code, done.stderr) == (2, f"Error: {said}\n")
    assert not (tmp_path / "result.json").exists()


class FakeWandb(FakeTrackio):
    """What `deltatheory` uses of wandb: the same, with an id."""

    def init(self, project, id, dir, **settings):
        assert id == settings["name"]
        return super().init(project, **settings)


class FakeWriter:
    """What `deltatheory` uses of TensorBoard's writer."""

    def __init__(self, folder):
        self.folder, self.scalars = folder, []
        written.append(self)

    def add_text(self, *_):
        pass

    def add_scalar(self, name, value, step):
        self.scalars.append((name, step))

    def close(self):
        pass


written: list[FakeWriter] = []


def test_runs_go_to_wandb_and_tensorboard_by_the_names_of_transformers(given, tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "tensorboard", fake)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeWriter))
    for name in ("wandb", "tensorboard:letters"):
        done = trained(tmp_path / name[:5], *given, "--no-compare", "--steps", "2", "--track", name)
        assert done.exit_code == 0, done.output
    assert [project for project, _ in fake.runs] == ["deltatheory"]
    assert fake.finished == 1
    assert [step for step, _ in fake.rows] == [2]
    (writer,) = written
    assert writer.folder.startswith(str(tmp_path / "tenso" / "tensorboard" / "letters" / "lora-"))
    assert ("test/accuracy", 2) in writer.scalars


BAD_TRAINING = [
    (("--option", "r"), "option='r': must be NAME=VALUE"),
    (("--option", "rank=2"), "option 'rank': the delta 'lora' has none of that name; it takes r, alpha"),
    (("--delta", "lor"), "nearest: lora"),
    (("--delta", "subspace"), "option 'd': the delta 'subspace' needs it"),
    (("--clip", "0"), "clip=0.0"),
    (("--patience", "2"), "needs evaluate_every"),
    (("--autocast",), "--autocast: bfloat16"),
    (("--head", "verbalizer"), "take a causal checkpoint"),
    (("--train-examples", "0"), "--train-examples=0: must be at least 1"),
]


@pytest.mark.parametrize(("options", "named"), BAD_TRAINING)
def test_bad_input_of_train_is_one_line(given, tmp_path, options, named):
    done = trained(tmp_path / "out", *given, *options)
    assert done.exit_code == 2, done.output
    assert named in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("Error: ")
    assert not (tmp_path / "out" / "result.json").exists()
