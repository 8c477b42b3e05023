"""Every adapter of peft that a delta here can be is that delta, and every verb reads it."""

from __future__ import annotations

import pytest
import torch
from command_line import run, save_tiny
from tiny_models import tiny_model, tiny_tokenizer
from tiny_problems import toy_task

from deltatheory.adapters import explain, from_peft, native, open_adapter, tuned_problem
from deltatheory.adapters.adapter import PeftAdapter
from deltatheory.advice import Candidate
from deltatheory.problems import Classifier, Problem, Setup
from deltatheory.training import Training, train

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

NAMES = ["key", "value", "output.dense"]
FORMS = {
    "lora": peft.LoraConfig(r=3, lora_alpha=7, target_modules=["query", "value"], rank_pattern={"query": 1}),
    "ia3": peft.IA3Config(
        target_modules=["key", "value", r"layer.0.output.dense", "layer.1.output.dense"],
        feedforward_modules=["layer.0.output.dense", "layer.1.output.dense"],
    ),
    "layernorm": peft.LNTuningConfig(target_modules=["LayerNorm"]),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3),
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=2),
}


def wrapped(name):
    config = FORMS[name]
    config.task_type = "FEATURE_EXTRACTION"
    model = peft.get_peft_model(tiny_model("bert"), config)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    return model


def imported(model):
    return PeftAdapter(from_peft(model, tokenizer=tiny_tokenizer("bert"), name="tiny-bert")[1])


@pytest.mark.parametrize("name", FORMS)
def test_it_is_the_delta_that_it_is(name):
    held = imported(wrapped(name))
    batch = held.backbone.encode(["a b c d", "e f"])
    theirs = held.backbone.hidden_states(batch, held.delta.edit(held.values))
    found = native(held)
    assert found.delta.name == ("modules" if name == "layernorm" else name)
    ours = found.backbone.hidden_states(batch, found.delta.edit(found.values))
    real = batch.mask[:, :, None]
    torch.testing.assert_close(ours * real, theirs * real, rtol=0, atol=1e-5)


def test_what_is_none_is_refused_by_name():
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["query"], use_dora=True)
    with pytest.raises(ValueError, match=r"peft_type='LORA'\) is no delta of this package: allowed are"):
        native(imported(peft.get_peft_model(tiny_model("bert"), config)))


def test_a_prefix_of_peft_is_explained_block_by_block():
    setup = Setup((tiny_model("bert"), tiny_tokenizer("bert")), toy_task(train=8, test=8))
    frozen = setup.problem("bitfit", check=False)
    expected = frozen.evaluate(frozen.delta.initial(), frozen.test)["accuracy"]
    at_hand = wrapped("prefix"), tiny_tokenizer("bert")
    found = explain(at_hand, {"task": toy_task(train=8, test=8)})
    assert found.frozen == expected  # of the model, and not of a prefix of words
    assert any(one.startswith("Blocks: without the prefix of block") for one in found.findings)
    assert found.modules == []


def test_every_verb_reads_what_train_has_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Problem, "check", lambda *_: None)
    base, task = save_tiny("bert", tmp_path / "bert"), toy_task(train=8, test=8)
    problem = Setup(str(base), task, head="prototypes").problem("prefix:2", {"gate": "none", "shift": True})
    result = train(problem, Training(steps=2, batch_size=4, learning_rate=0.1))
    result.save_beside(tmp_path / "run")
    file = tmp_path / "letters.csv"
    rows = [
        f"{text},{task.label_names[label]},{split}"
        for split in ("train", "dev", "test")
        for text, label in zip(getattr(task, split).texts, getattr(task, split).labels, strict=True)
    ]
    file.write_text("\n".join(["text,label,split", *rows]))
    expected = Classifier.of(problem, result.delta).predict(problem.delta, result.delta, task.test.texts)
    for place in (tmp_path / "run", tmp_path / "run" / "adapter", open_adapter(tmp_path / "run")):
        head = "label-words" if not isinstance(place, type(tmp_path)) else "random"  # that beside it counts
        again, at = tuned_problem(place, Setup("absent", task, head=head))
        if isinstance(place, type(tmp_path)):
            chances = again.predict(at, again.test).softmax(-1)
            torch.testing.assert_close(chances, expected, rtol=0, atol=1e-5)
    assert Candidate.of(str(tmp_path / "run")).label.startswith("prefix length=2 gate=none")
    seen = []

    def see(problem, value, *_, **__):
        seen.append(problem.predict(value, problem.test).softmax(-1))
        raise ValueError("seen")

    monkeypatch.setattr("deltatheory.control.feedback.steering.steer", see)
    monkeypatch.setattr("deltatheory.control.diagnose", see)
    about = ("--task", file, "--model", tmp_path / "absent", "--no-progress", "--out", tmp_path / "out")
    run("steer", "--tuned", tmp_path / "run", *about)
    run("diagnose", "--adapter", tmp_path / "run" / "adapter", *about)
    for one in seen:
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-5)
    assert len(seen) == 2
