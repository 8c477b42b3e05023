from __future__ import annotations

import lzma
import os
import random
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

pytest.importorskip("transformers")

from deltatheory.backbones import load_backbone
from deltatheory.deltas.files import read_tensors, write_tensors
from experiments.corpus import CONTEXT, Corpus, load_corpus
from experiments.pretrain import SIZES, Pretraining, Recipe, app

TINY = Recipe(hidden=16, layers=1, heads=2, steps=6, batch=2, learning_rate=1e-2, warmup=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process has no other threads than the one that forked
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two documents in each shard; the first one of the training text is compressed."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=4)) for _ in range(30)]
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("train-00", "train-01", "valid-00"):
        text = "\n\n".join(" ".join(rng.choices(words, k=900)) + " é" for _ in range(2))
        (folder / f"{name}.txt").write_text(text, encoding="utf8")
    plain = folder / "train-00.txt"
    (folder / "train-00.txt.xz").write_bytes(lzma.compress(plain.read_bytes()))
    plain.unlink()
    return folder


@pytest.fixture(scope="module")
def corpus(folder, tmp_path_factory) -> Corpus:
    return load_corpus(folder, tmp_path_factory.mktemp("out") / "tokens")


def weights(out):
    return load_file(out / "model.safetensors")


def run(corpus, out, recipe=TINY, **options) -> Pretraining:
    return Pretraining("tiny", recipe, corpus, out, **({"every": 2} | options))


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    whole = run(corpus, tmp_path_factory.mktemp("finished"), snapshots=2)
    whole.finish()
    return whole


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_corpus_is_its_text(folder, corpus):
    text = lzma.decompress((folder / "train-00.txt.xz").read_bytes()).decode()
    first = text.split("\n\n")[0]
    end = corpus.tokenizer.eos_token_id
    stop = corpus.train.tolist().index(end)
    assert corpus.tokenizer.decode(corpus.train[:stop].tolist()) == " " + first
    assert corpus.train.tolist().count(end) == 4
    assert corpus.token_bytes[corpus.train[:stop]].sum() == len(first.encode()) + 1
    assert corpus.token_bytes[end] == 0


def test_a_new_model_knows_nothing_and_a_trained_one_more(finished):
    rows = [row["result"] for row in finished.log.rows()]
    assert [row["config"]["step"] for row in finished.log.rows()] == [0, 2, 4, 6]
    uniform = torch.tensor(float(len(finished.corpus.tokenizer))).log()
    assert rows[0]["nats_per_token"] == pytest.approx(float(uniform), rel=0.05)
    assert rows[-1]["nats_per_token"] < rows[0]["nats_per_token"] - 0.1


@torch.no_grad()
def test_validation_is_the_mean_over_windows(finished):
    """Against the loss that `transformers` computes, window by window."""
    short = replace(finished.corpus, valid=finished.corpus.valid[: CONTEXT + 3])
    finished.corpus, whole = short, finished.corpus
    result = finished.validate()
    finished.corpus = whole
    losses, text = [], []
    for start in (0, 1, 2):
        ids = torch.tensor(short.valid[start : start + CONTEXT + 1].astype("int64"))[None]
        losses.append(finished.model(input_ids=ids[:, :-1], labels=ids[:, :-1], shift_labels=ids[:, 1:]).loss)
        text.append(sum(len(corpus_bytes(short, i)) for i in ids[0, 1:].tolist()) / CONTEXT)
    nats, byte_count = float(sum(losses)) / 3, sum(text) / 3
    assert result["nats_per_token"] == pytest.approx(nats, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(nats / byte_count / 0.6931472, rel=1e-5)


def corpus_bytes(corpus, token: int) -> bytes:
    """A token's bytes by the table of the byte-level alphabet, one character a byte."""
    piece = corpus.tokenizer.convert_ids_to_tokens(token)
    return b"" if token == corpus.tokenizer.eos_token_id else piece.encode("utf-32-le")[::4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_killed_run_resumes_to_the_same_weights(corpus, finished, tmp_path, step):
    child = os.fork()
    if child == 0:
        killed = run(corpus, tmp_path)
        train = killed._train_step

        def train_or_die() -> float:
            if killed.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return train()

        killed._train_step = train_or_die
        killed.finish()
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (tmp_path / "config.json").exists()
    run(corpus, tmp_path).finish()
    assert same(weights(tmp_path), weights(finished.out))
    assert [row["config"]["step"] for row in run(corpus, tmp_path).log.rows()] == [0, 2, 4, 6]


def test_the_optimizer_is_part_of_the_checkpoint(corpus, finished, tmp_path):
    """The mutant of the test above: with its moments lost a run ends elsewhere."""

    class Killed(Exception):
        pass

    def die() -> float:
        if cut.step == 4:
            raise Killed
        return train()

    cut = run(corpus, tmp_path)
    train, cut._train_step = cut._train_step, die
    with pytest.raises(Killed):
        cut.finish()
    tensors, note = read_tensors(cut.checkpoint.path)
    for name in tensors:
        if name.endswith("/exp_avg"):
            tensors[name].zero_()
    write_tensors(cut.checkpoint.path, tensors, note)
    run(corpus, tmp_path).finish()
    assert not same(weights(tmp_path), weights(finished.out))


def test_a_run_can_be_made_longer_until_its_rate_falls(corpus, finished, tmp_path):
    long = replace(TINY, steps=20)
    with pytest.raises(ValueError, match="falls since 5"):
        run(corpus, finished.out, long).finish()

    class Killed(Exception):
        pass

    def die() -> float:
        if cut.step == 5:
            raise Killed
        return train()

    cut = run(corpus, tmp_path, long)
    train, cut._train_step = cut._train_step, die
    with pytest.raises(Killed):
        cut.finish()
    run(corpus, tmp_path).finish()
    assert same(weights(tmp_path), weights(finished.out))


def test_the_learning_rate_rises_stays_and_falls():
    recipe = replace(SIZES["1M"], steps=1000)
    rates = [recipe.rate(step) / recipe.learning_rate for step in range(1000)]
    assert rates[0] == 0.01
    assert set(rates[99:800]) == {1.0}
    assert rates[900] == pytest.approx(0.5, abs=0.01)
    assert 0 < rates[-1] < 0.01


def test_the_folder_is_a_backbone(finished):
    backbone = load_backbone(str(finished.out))
    own = torch.cat([p.flatten() for p in finished.model.parameters()])
    loaded = torch.cat([p.flatten() for p in backbone.model.parameters()])
    assert torch.equal(loaded, own.half().float())
    batch = backbone.encode(["abcd abcd", "aabb"])
    assert backbone.tokenizer.tokenize("positive") == finished.corpus.tokenizer.tokenize(" positive")
    expected = finished.model(input_ids=batch.input_ids[:1, : int(batch.mask[0].sum())]).logits[:, -1]
    got = backbone.vocabulary_logits(backbone.pooled(batch))[:1]
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)
    card = (finished.out / "README.md").read_text()
    assert "OpenStax, Rice University" in card
    assert f"{finished.log.rows()[-1]['result']['nats_per_token']:.3f} nats a token" in card


def test_all_of_the_folder_is_for_the_same_readers(finished):
    """safetensors leaves its files to the owner alone, whatever the umask says."""
    files = [finished.out / name for name in ("config.json", "model.safetensors", "tokenizer.json")]
    assert len({path.stat().st_mode for path in files}) == 1


def test_snapshots_stand_at_doubled_steps(finished):
    folders = sorted((finished.out / "snapshots").iterdir())
    assert [f.name for f in folders] == ["step-000002", "step-000004"]
    assert not same(weights(folders[0]), weights(folders[1]))
    load_backbone(str(folders[0]))


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_folder_without_shards_is_refused(tmp_path, part):
    other = {"train": "valid", "valid": "train"}[part]
    (tmp_path / f"{other}-00.txt").write_text("text")
    with pytest.raises(ValueError, match=rf"corpus=.*{part}-\*\.txt"):
        load_corpus(tmp_path, tmp_path / "tokens")


def test_too_little_text_is_refused(tmp_path):
    for part in ("train", "valid"):
        (tmp_path / f"{part}-00.txt").write_text("few words")
    with pytest.raises(ValueError, match="more than 257 tokens"):
        load_corpus(tmp_path, tmp_path / "tokens")


def test_tokens_of_another_corpus_are_refused(folder, corpus, tmp_path):
    load_corpus(folder, tmp_path / "tokens")
    (tmp_path / "train-00.txt").write_text("other text")
    (tmp_path / "valid-00.txt").write_text("other text")
    with pytest.raises(ValueError, match="another corpus"):
        load_corpus(tmp_path, tmp_path / "tokens")


def test_the_command_of_the_card_is_the_one_that_ran(folder, tmp_path):
    said = ["--size", "0.1M", "--steps", "1", "--batch", "2", "--seed", "3", "--device", "cpu"]
    assert CliRunner().invoke(app, [str(folder), *said, "--out", str(tmp_path / "x")]).exit_code == 0
    card = (tmp_path / "x" / "README.md").read_text()
    assert f"CORPUS {' '.join(said)} --out FOLDER" in card
    assert "1 steps of 2 x 256 tokens" in card


def test_an_unknown_size_is_refused(folder, tmp_path):
    result = CliRunner().invoke(app, [str(folder), "--size", "2M", "--out", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "allowed are 0.1M, 0.3M, 1M, 4M, 16M" in " ".join(result.output.split())
