"""Heads in adapters of `peft`: what modules_to_save brings, and a head that was trained here."""

from __future__ import annotations

import peft
import pytest
import torch
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_task
from transformers import AutoModelForSequenceClassification

from deltatheory.adapters import explain, from_peft, load_adapter, open_adapter, to_peft
from deltatheory.backbones import load_backbone, wrap_model
from deltatheory.deltas.files import save_delta
from deltatheory.problems import Setup

LORA = {"r": 2, "init_lora_weights": False, "task_type": "SEQ_CLS"}
TARGETS = {"bert": ["query"], "roberta": ["query"], "llama": ["q_proj"], "t5": ["q"]}


def base(folder, family, **extra):
    """The folder of a checkpoint without a classifier."""
    tiny_model(family, **extra).save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return str(folder)


def classifier(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)


def logits_of(model, batch):
    types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
    with torch.no_grad():
        return model.eval()(input_ids=batch.input_ids, attention_mask=batch.mask.long(), **types).logits


def changed(model):
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


@pytest.mark.parametrize("family", TARGETS)
def test_an_adapter_brings_its_head_and_takes_it_along(tmp_path, family):
    folder = base(tmp_path / "base", family)
    head = ["classification_head"] if family == "t5" else None  # a name that peft does not know
    config = peft.LoraConfig(target_modules=TARGETS[family], modules_to_save=head, **LORA)
    model = peft.get_peft_model(classifier(folder), config)
    model.config.pad_token_id = 3 if family in ("roberta", "llama") else 0
    changed(model).save_pretrained(tmp_path / "adapter")

    backbone, delta = load_adapter(tmp_path / "adapter", name=folder)
    assert delta.left_out
    setup = Setup(backbone, toy_task(3, train=9), head="own")
    problem = setup.problem(delta, check=False)
    batch, _ = problem.batch(problem.train, range(5))
    torch.testing.assert_close(problem.logits(delta.initial(), batch), logits_of(model, batch))

    tuned = setup.problem(delta, check=False, train_head=True)
    point = 0.1 * torch.randn(tuned.delta.size, generator=torch.Generator().manual_seed(0))
    ours = tuned.logits(point, batch)
    assert (ours - problem.logits(point[: delta.size], batch)).abs().max() > 1e-2
    to_peft(tuned.delta, point, tmp_path / "tuned", base_model_name=folder)
    again = peft.PeftModel.from_pretrained(classifier(folder), tmp_path / "tuned")
    again.config.pad_token_id = model.config.pad_token_id
    torch.testing.assert_close(logits_of(again, batch), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", "lora:2"),
        ("llama", "lora:2"),
        ("llama", "prompt:2"),
        ("bart", "lora:2"),
        ("gpt2", "lora:2"),  # whose lm_head is tied to an embedding, and so is there beside a classifier
    ],
)
def test_a_head_that_was_trained_here_goes_to_peft(tmp_path, family, kind):
    model = tiny_model(family, AutoModelForSequenceClassification, num_labels=3)
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer(family).save_pretrained(tmp_path / "base")
    backbone = load_backbone(str(tmp_path / "base"))
    problem = Setup(backbone, toy_task(3, train=9), head="own").problem(kind, check=False, train_head=True)
    point = 0.2 * torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(0))
    to_peft(problem.delta, point, tmp_path / "adapter")
    there = peft.PeftModel.from_pretrained(classifier(tmp_path / "base"), tmp_path / "adapter")
    there.config.pad_token_id = backbone.tokenizer.pad_token_id
    for i in range(3):  # PEFT's prompts look for the last token where padding is
        batch, _ = problem.batch(problem.train, [i])
        ours = problem.logits(point, batch)
        torch.testing.assert_close(logits_of(there, batch), ours, rtol=1e-4, atol=1e-4)
    own, delta = load_adapter(tmp_path / "adapter", name=str(tmp_path / "base"))
    back = Setup(own, toy_task(3, train=9), head="own").problem(delta, check=False)
    torch.testing.assert_close(back.logits(delta.initial(), batch), ours, rtol=1e-4, atol=1e-4)


def test_the_head_behind_a_prompt_in_an_encoder_of_peft_reads_another_token(tmp_path):
    model = tiny_model("roberta", AutoModelForSequenceClassification, num_labels=3)
    backbone = wrap_model(model, tiny_tokenizer("roberta"), name="x")
    problem = Setup(backbone, toy_task(3, train=9), head="own").problem(
        "prompt:2", check=False, train_head=True
    )
    with pytest.raises(ValueError, match="whose encoders read the first virtual token"):
        to_peft(problem.delta, problem.delta.initial(), tmp_path)
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    there = peft.get_peft_model(tiny_model("roberta", AutoModelForSequenceClassification), config)
    assert from_peft(there, tokenizer=tiny_tokenizer("roberta"), name="x")[0].classifier is None


def test_other_trained_heads_have_no_form_in_peft(tmp_path):
    problem = Setup(tiny("bert"), toy_task(3, train=9)).problem("lora:1", check=False, train_head=True)
    with pytest.raises(ValueError, match="trained head='label-words' has no form in PEFT: allowed is 'own'"):
        to_peft(problem.delta, problem.delta.initial(), tmp_path)


def test_an_adapter_without_a_head_of_its_own_brings_none(tmp_path):
    """Its base has none either: the classifier around it is random."""
    folder = base(tmp_path / "base", "roberta")
    config = peft.LoraConfig(target_modules=["query", "classifier.out_proj"], r=2, init_lora_weights=False)
    peft.get_peft_model(classifier(folder), config).save_pretrained(tmp_path / "adapter")
    backbone, _ = load_adapter(tmp_path / "adapter", name=folder)
    assert backbone.classifier is None
    model = peft.get_peft_model(classifier(folder), config)
    at_hand, _ = from_peft(model, tokenizer=tiny_tokenizer("roberta"), name="x")
    assert at_hand.classifier is not None  # whoever gives a model knows where it is from


def test_an_explanation_is_of_the_head_that_an_adapter_brings(tmp_path):
    folder = base(tmp_path / "base", "bert")
    model = peft.get_peft_model(classifier(folder), peft.LoraConfig(target_modules=["query"], **LORA))
    changed(model).save_pretrained(tmp_path / "adapter")
    setup = {"task": toy_task(3, train=9), "head": "own"}
    found = explain(open_adapter(tmp_path / "adapter", folder), setup, keep=0.9)
    test = setup["task"].test
    logits = logits_of(model, load_backbone(folder).encode(test.texts))
    assert found.full == (logits.argmax(1) == torch.tensor(test.labels)).double().mean()
    assert found.findings[0].endswith("; the truncated adapter has none.")
    assert "another" not in found.findings[0]


def test_an_explanation_is_of_the_head_that_was_trained(tmp_path):
    model = tiny_model("bert", AutoModelForSequenceClassification)
    backbone = wrap_model(model, tiny_tokenizer("bert"), name="x")
    setup = Setup(backbone, toy_task(train=16), head="own")
    problem = setup.problem("lora:2", check=False, train_head=True)
    point = 0.3 * torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(1))
    save_delta(tmp_path / "delta.safetensors", problem.delta, point)
    found = explain(open_adapter(tmp_path / "delta.safetensors", backbone), setup, keep=0.9)
    assert found.full == problem.evaluate(point, problem.test)["accuracy"]
    assert "such as 'bias'; the truncated adapter has none." in found.findings[0]
    with pytest.raises(ValueError, match="trained beside δ was head='own'"):
        explain(open_adapter(tmp_path / "delta.safetensors", backbone), setup.replace(head="random"))
