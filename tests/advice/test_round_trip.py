"""What advice writes for `peft` and `transformers` trains there as it does here, and comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_task

from deltatheory.adapters import load_adapter, peft_config, to_peft
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
NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}


@pytest.fixture(scope="module", params=NO_DROPOUT)
def base(request, tmp_path_factory) -> str:
    """The folder of a checkpoint with a classifier."""
    folder, family = tmp_path_factory.mktemp("models") / request.param, request.param
    auto = transformers.AutoModelForSequenceClassification
    tiny_model(family, auto, num_labels=2, **NO_DROPOUT[family]).save_pretrained(folder)
    tokenizer = tiny_tokenizer(family)
    tokenizer.pad_token = "[PAD]"
    tokenizer.save_pretrained(folder)
    return str(folder)


class InOrder(transformers.Trainer):
    """Takes the examples as they come."""

    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


PREFIX = Candidate("prefix", {"length": 3, "gate": "none", "shift": True})
PROMPT = Candidate("prompt", {"length": 3})
CASES = [
    *(
        ("bert", one)
        for one in (Candidate("ia3"), Candidate("layernorm"), Candidate("lora", {"r": 2}), PREFIX)
    ),
    ("gpt2", PROMPT),
]


@pytest.mark.parametrize(
    ("base", "candidate"), CASES, ids=[one.method for _, one in CASES], indirect=["base"]
)
def test_it_trains_alike_with_plain_transformers_and_peft_and_comes_back(candidate, base, tmp_path):
    # Texts of one length: of embeddings `transformers` cannot tell where the padding begins.
    task = toy_task(2, train=16, length=5 if candidate is PROMPT else None)
    setup = Setup(load_backbone(base), task, head="own")
    advise(setup, candidates=[candidate], training=PLAN, examples=12).save(tmp_path)

    config = peft.PeftConfig.from_pretrained(str(tmp_path))
    arguments = json.loads((tmp_path / "training_arguments.json").read_text())
    options = candidate.options
    if candidate.method == "lora":
        options = {
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
    if candidate.options:  # PEFT draws its own A, and its own virtual tokens
        to_peft(problem.delta, problem.delta.initial(), tmp_path / "start", base_model_name=base)
        start = peft.load_peft_weights(tmp_path / "start", device="cpu")
        loaded = peft.set_peft_model_state_dict(model, start)
        assert set(loaded.unexpected_keys) <= {"prompt_embeddings"}  # loaded by PEFT before it asks
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


def test_a_prompt_before_an_encoder_has_no_classifier_in_peft():
    """There it would read the first virtual token."""
    setup = Setup(tiny("bert"), toy_task(2, train=8), head="label-words")
    prompt = setup.delta("prompt", length=3)
    with pytest.raises(ValueError, match=r"delta='prompt' with a trained head .* first virtual token"):
        peft_config(prompt, train_head=True)
    assert _peft_config(setup, prompt) is None
    assert peft_config(prompt)["task_type"] == "FEATURE_EXTRACTION"


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
