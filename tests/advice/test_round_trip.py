"""What advice writes for `peft` and `transformers` trains there as it does here, and comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_task

from deltatheory.adapters import load_adapter, to_peft
from deltatheory.advice import Candidate, advise
from deltatheory.advice.ranking import _peft_config
from deltatheory.backbones import load_backbone
from deltatheory.deltas import make_delta
from deltatheory.problems import ClassificationProblem, Setup, epochs
from deltatheory.training import Training, train

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

PLAN = Training(steps=4, batch_size=4, warmup=0.0)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """The folder of a checkpoint with a classifier."""
    folder = tmp_path_factory.mktemp("base")
    auto = transformers.AutoModelForSequenceClassification
    tiny_model("bert", auto, num_labels=2, **NO_DROPOUT).save_pretrained(folder)
    tiny_tokenizer("bert").save_pretrained(folder)
    return str(folder)


class InOrder(transformers.Trainer):
    """Takes the examples as they come."""

    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize(
    "candidate", [Candidate("ia3"), Candidate("layernorm"), Candidate("lora", {"r": 2})], ids=str
)
def test_it_trains_alike_with_plain_transformers_and_peft_and_comes_back(candidate, base, tmp_path):
    setup = Setup(load_backbone(base), toy_task(2, train=16), head="own")
    advise(setup, candidates=[candidate], training=PLAN, examples=12).save(tmp_path)

    config = peft.PeftConfig.from_pretrained(str(tmp_path))
    arguments = json.loads((tmp_path / "training_arguments.json").read_text())
    options = candidate.options and {
        "r": config.r,
        "targets": sorted(config.target_modules),
        "rank_pattern": config.rank_pattern,
    }
    problem = setup.problem(candidate.method, options, check=False, train_head=True)
    assert isinstance(problem, ClassificationProblem)
    ours = train(problem, replace(PLAN, learning_rate=arguments["learning_rate"]))

    there = transformers.AutoModelForSequenceClassification.from_pretrained(config.base_model_name_or_path)
    model = peft.get_peft_model(there, config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == problem.delta.size
    if candidate.method == "lora":  # PEFT draws its own A
        to_peft(problem.delta, problem.delta.initial(), tmp_path / "start", base_model_name=base)
        start = peft.load_peft_weights(tmp_path / "start", device="cpu")
        assert not peft.set_peft_model_state_dict(model, start).unexpected_keys
    order = [i for batch in islice(epochs(problem.train.lengths, 4, PLAN.seed), PLAN.steps) for i in batch]
    tokenizer = setup.backbone.tokenizer
    examples = [
        {**tokenizer(setup.task.train.texts[i]), "labels": int(setup.task.train.labels[i])} for i in order
    ]
    InOrder(
        model,
        transformers.TrainingArguments(
            str(tmp_path), use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True, **arguments
        ),
        transformers.DataCollatorWithPadding(tokenizer),
        examples,
    ).train()
    model.eval().save_pretrained(tmp_path / "trained")

    batch, _ = problem.batch(problem.test, range(6))
    expected = problem.logits(ours.delta, batch)
    assert (expected - problem.logits(problem.delta.initial(), batch)).abs().max() > 1e-3
    with torch.no_grad():
        theirs = model(input_ids=batch.input_ids, attention_mask=batch.mask.long()).logits
    torch.testing.assert_close(theirs, expected, rtol=1e-5, atol=1e-5)
    backbone, delta = load_adapter(tmp_path / "trained", name=base)
    back = Setup(backbone, setup.task, head="own").classification(delta, check=False)
    torch.testing.assert_close(back.logits(delta.initial(), batch), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "head", "task", "saved"),
    [
        ("bert", "label-words", "SEQ_CLS", ["classifier"]),
        ("gpt2", "calibrated-verbalizer", "CAUSAL_LM", None),
    ],
)
def test_a_configuration_says_what_is_trained_beside_the_delta(family, head, task, saved):
    setup = Setup(tiny(family), toy_task(2, train=8), head=head, suffix=" p" if saved is None else "")
    config = _peft_config(setup, make_delta("lora", setup.backbone, r=2))
    assert config
    assert (config["task_type"], config.get("modules_to_save")) == (task, saved)
    for other in (setup.delta("full"), setup.delta("unilora", d=3)):  # no form, and one with more to train
        assert _peft_config(setup, other) is None
