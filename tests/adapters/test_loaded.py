"""Adapters of other people's making: all that their configuration implies is loaded, and no more."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import tiny, tiny_model, tiny_tokenizer

from deltatheory.adapters import explain, from_peft, load_adapter, open_adapter, to_peft
from deltatheory.adapters.files import CONFIG, WEIGHTS
from deltatheory.deltas import make_delta, patterns
from deltatheory.deltas.files import save_delta, write_tensors

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

PREFIX = "base_model.model."
TEXTS = ["a b c d", "e f"]
ROWS = 20  # of the tiny vocabulary


@pytest.fixture
def folder(tmp_path) -> Path:
    """A base and an adapter of it, by the base's name."""
    base = tmp_path / "base"
    saved(tiny_model("bert"), base)
    delta = make_delta("lora", tiny("bert"), r=2, targets=["query"])
    point = 0.1 * torch.randn(delta.size, generator=torch.Generator().manual_seed(0))
    to_peft(delta, point, tmp_path / "adapter", base_model_name=str(base))
    return tmp_path / "adapter"


def saved(model, base: Path, family: str = "bert") -> None:
    model.save_pretrained(base)
    tiny_tokenizer(family).save_pretrained(base)


def changed(folder: Path, **changes) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(load_file(folder / WEIGHTS) | tensors, folder / WEIGHTS)


def perturbed(model):
    """A peft model whose adapter is not at its start."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def states(backbone, delta, ids=None):
    batch = backbone.encode(TEXTS[:1])
    if ids is not None:
        batch = replace(batch, input_ids=torch.tensor([ids]))
    return backbone.hidden_states(batch, delta.edit(delta.initial())), batch


def of_peft(model, batch):
    """PEFT's own forward up to the last hidden state."""
    return model(
        input_ids=batch.input_ids, attention_mask=batch.mask.long(), output_hidden_states=True
    ).hidden_states[-1]


# The frozen base ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.0.attention.self.query.base_layer.weight",
        "encoder.layer.1.output.dense.weight",
        "encoder.layer.0.attention.self.key.lora_A.weight",
        "nothing.weight",
    ],
)
def test_a_tensor_that_the_configuration_does_not_imply_is_refused(folder, name):
    with_tensors(folder, {PREFIX + name: torch.zeros(16, 16)})
    with pytest.raises(ValueError, match=rf"in its file and not in the model \(1, such as '{PREFIX}{name}'"):
        load_adapter(folder)


def test_a_missing_tensor_is_named(folder):
    tensors = load_file(folder / WEIGHTS)
    gone = next(iter(tensors))
    save_file({n: x for n, x in tensors.items() if n != gone}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=rf"the other way round \(1, such as '{gone}'\)"):
        load_adapter(folder)


def test_word_embeddings_in_the_file_must_be_the_bases_own(folder):
    """PEFT itself adds them where it finds the vocabulary changed; other numbers would overwrite the base."""
    name, model = f"{PREFIX}embeddings.word_embeddings.weight", tiny_model("bert")
    own = model.embeddings.word_embeddings.weight.detach()
    with_tensors(folder, {name: own.clone()})
    backbone, _ = load_adapter(folder)
    assert torch.equal(backbone.model.embeddings.word_embeddings.weight, own)
    with_tensors(folder, {name: own.half()})  # as a training in half precision keeps them
    load_adapter(folder)
    with_tensors(folder, {name: own + 1})
    with pytest.raises(
        ValueError, match=r"word_embeddings.weight' in its file would take the place of a froz"
    ):
        load_adapter(folder, model, tokenizer=tiny_tokenizer("bert"), name="base")
    assert torch.equal(model.embeddings.word_embeddings.weight, own)


# What PEFT can do -----------------------------------------------------------------------------------------

LORA = {"task_type": "CAUSAL_LM", "r": 2, "init_lora_weights": False}


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
        {"target_modules": "all-linear", "exclude_modules": r".*layers\.0\..*"},
        {"target_modules": "all-linear", "modules_to_save": ["down_proj"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    ],
)
def test_modules_that_are_taken_out_of_the_targets(tmp_path, options):
    saved(tiny_model("llama"), tmp_path / "base", "llama")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = perturbed(peft.get_peft_model(base, peft.LoraConfig(**LORA | options)))
    model.save_pretrained(tmp_path / "adapter")
    backbone, delta = load_adapter(tmp_path / "adapter")
    ours, batch = states(backbone, delta)
    torch.testing.assert_close(ours, of_peft(model, batch), rtol=0, atol=5e-5)


@pytest.mark.parametrize("tokens", [[4, 5], [17, 18], [19]])
def test_trainable_tokens_wherever_they_are(tokens):
    config = peft.TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=tokens)
    model = perturbed(peft.get_peft_model(tiny_model("llama"), config))
    backbone, delta = from_peft(model, tokenizer=tiny_tokenizer("llama"), name="x")
    ours, batch = states(backbone, delta, [4, 17, 19, 18])
    torch.testing.assert_close(ours, of_peft(model, batch), rtol=0, atol=5e-5)


def test_trained_tokens_are_held_to_peft():
    """A forward that goes wrong at one of the trained tokens alone is seen."""
    config = peft.TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[17, 18])
    model = perturbed(peft.get_peft_model(tiny_model("llama"), config))
    forward = model.forward
    model.forward = lambda input_ids, **rest: forward(
        input_ids=torch.where(input_ids == 18, 17, input_ids), **rest
    )
    with pytest.raises(ValueError, match="PEFT's own forward does more than its parameters say"):
        from_peft(model, tokenizer=tiny_tokenizer("llama"), name="x")


RESIZED = {
    "frozen": peft.LoraConfig(target_modules=["q_proj"], **LORA),
    "whole": peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], **LORA),
    "tokens": peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=[5, ROWS, ROWS + 1], **LORA),
    "tokens-only": peft.TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[ROWS + 1]),
    "low-rank": peft.LoraConfig(target_modules=["embed_tokens"], **LORA),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", RESIZED)
def test_an_adapter_trained_after_the_vocabulary_was_resized(tmp_path, kind, tied):
    saved(tiny_model("llama", tie_word_embeddings=tied), tmp_path / "base", "llama")

    def resized(seed: int = 0):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        torch.manual_seed(seed)
        model.resize_token_embeddings(ROWS + 2)
        return model

    def load(model=None):
        return load_adapter(tmp_path / "adapter", model, tokenizer=tiny_tokenizer("llama"))

    model = perturbed(peft.get_peft_model(resized(), RESIZED[kind]))
    model.save_pretrained(tmp_path / "adapter")
    ours, batch = states(*load(resized()), [4, 5, ROWS, ROWS + 1])
    torch.testing.assert_close(ours, of_peft(model, batch), rtol=0, atol=5e-5)
    for other in (None, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")):
        with pytest.raises(
            ValueError, match="If the vocabulary was resized for training, resize_token_embedd"
        ):
            load(other)
    if kind in ("whole", "tokens"):  # what the new rows were before does not matter: they are trained
        load(resized(1))
    else:
        with pytest.raises(ValueError, match="would take the place of a frozen tensor"):
            load(resized(1))


AUTO = {
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
    "QUESTION_ANS": transformers.AutoModelForQuestionAnswering,
    "FEATURE_EXTRACTION": transformers.AutoModel,
    "CAUSAL_LM": transformers.AutoModelForCausalLM,
}
TASKS = [
    *(("bert", task, True) for task in AUTO if task != "CAUSAL_LM"),
    *(("roberta", task, True) for task in ("SEQ_CLS", "TOKEN_CLS")),
    *(("gpt2", task, True) for task in ("SEQ_CLS", "FEATURE_EXTRACTION")),
    *(("llama", task, True) for task in ("SEQ_CLS", "TOKEN_CLS", "FEATURE_EXTRACTION", "CAUSAL_LM")),
    *((family, "SEQ_CLS", False) for family in ("bert", "llama")),
    ("gpt2", "CAUSAL_LM", False),
]


@pytest.mark.parametrize(("family", "task", "named"), TASKS)
def test_an_adapter_of_every_task_by_the_name_of_its_base(tmp_path, family, task, named):
    """Without a task, PEFT's configuration names the class."""
    saved(tiny_model(family), tmp_path / "base", family)
    labels = {"num_labels": 3} if task in ("SEQ_CLS", "TOKEN_CLS") else {}
    base = AUTO[task].from_pretrained(tmp_path / "base", **labels)
    config = peft.LoraConfig(task_type=task if named else None, r=2, init_lora_weights=False)
    model = perturbed(peft.get_peft_model(base, config))
    model.save_pretrained(tmp_path / "adapter")
    backbone, delta = load_adapter(tmp_path / "adapter")
    ours, batch = states(backbone, delta)
    theirs = of_peft(model, batch)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
    assert (backbone.lm_head is not None) == (task == "CAUSAL_LM")
    assert bool(delta.left_out) == bool(named and (labels or task == "QUESTION_ANS"))
    to_peft(delta, delta.initial(), tmp_path / "again")
    before, after = (load_file(tmp_path / x / WEIGHTS) for x in ("adapter", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_adapters_that_act_together_are_not_written_as_one(tmp_path):
    model = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(target_modules=["q_proj"], **LORA), "A")
    model.add_adapter("B", peft.LoraConfig(target_modules=["v_proj"], lora_alpha=3, **LORA))
    model.base_model.set_adapter(["A", "B"])
    backbone, delta = from_peft(model, tokenizer=tiny_tokenizer("llama"), name="x")
    ours, batch = states(backbone, delta)
    torch.testing.assert_close(ours, of_peft(model, batch), rtol=0, atol=5e-5)
    with pytest.raises(ValueError, match=r"\['A', 'B'\] are active together: one folder holds one"):
        to_peft(delta, delta.initial(), tmp_path)
    assert not list(tmp_path.iterdir())
    assert [c["lora_alpha"] for c in delta.specification()["config"]] == [8, 3]


def test_the_values_of_an_adapter_are_in_its_specification():
    def specification(seed: int):
        base = tiny_model("llama")
        torch.manual_seed(seed)
        model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], **LORA))
        return from_peft(model, tokenizer=tiny_tokenizer("llama"), name="x")[1].specification()

    assert specification(1) == specification(1)
    assert specification(1) != specification(2)


def test_a_model_and_an_adapter_in_one_folder(tmp_path):
    saved(tiny_model("llama"), tmp_path, "llama")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    model = perturbed(peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], **LORA)))
    model.save_pretrained(tmp_path)
    backbone, delta = load_adapter(tmp_path)
    ours, batch = states(backbone, delta)
    torch.testing.assert_close(ours, of_peft(model, batch), rtol=0, atol=5e-5)
    assert explain(str(tmp_path)).total_rank == 2 * 2


def test_a_base_of_two_widths(tmp_path):
    """OPT-350M's words are narrower than its blocks."""
    saved(tiny_model("opt", word_embed_proj_dim=8, do_layer_norm_before=False), tmp_path / "base", "opt")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = perturbed(peft.get_peft_model(base, peft.LoraConfig(**LORA | {"target_modules": "all-linear"})))
    model.save_pretrained(tmp_path / "adapter")
    backbone, delta = load_adapter(tmp_path / "adapter")
    ours, batch = states(backbone, delta)
    seen = []
    handle = base.model.decoder.register_forward_hook(lambda _m, _a, out: seen.append(out[0]))
    of_peft(model, batch)
    handle.remove()
    torch.testing.assert_close(ours, seen[0], rtol=0, atol=1e-4)
    delta = make_delta("prompt", tiny("opt", word_embed_proj_dim=8), length=3)
    to_peft(delta, delta.initial() + 0.1, tmp_path / "prompt", base_model_name=str(tmp_path / "base"))
    load_adapter(tmp_path / "prompt")


@pytest.mark.parametrize("task", ["CAUSAL_LM", "FEATURE_EXTRACTION", "SEQ_CLS"])
def test_a_base_without_lm_head(tmp_path, task):
    saved(transformers.AutoModel.from_config(tiny_model("llama").config), tmp_path / "base", "llama")
    model = AUTO[task].from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(**LORA | {"task_type": task, "target_modules": ["q_proj"]})
    perturbed(peft.get_peft_model(model, config)).save_pretrained(tmp_path / "adapter")
    backbone, delta = load_adapter(tmp_path / "adapter")
    ours, batch = states(backbone, delta)
    torch.testing.assert_close(ours, of_peft(model, batch), rtol=0, atol=5e-5)
    assert backbone.lm_head is None


# Bad files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"peft_type": "NOTHING"}',
        b'{"peft_type": ["LORA"]}',
        b'{"peft_type": "LORA", "lora_alpha": NaN}',
        b'{"peft_type": "LORA", "base_model_name_or_path": "\\ud800"}',
        b'{"peft_type": "LORA", "base_model_name_or_path": 3}',
        b'{"peft_type": "LORA", "task_type": "NOTHING"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_configuration_is_one_line(folder, content):
    (folder / CONFIG).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{CONFIG} of '.*'") as caught:
        load_adapter(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"r": "x"},
        {"r": -1},
        {"r": 0},
        {"r": 3},
        {"r": None},
        {"r": [2]},
        {"r": 10**9},
        {"rank_pattern": {"query": 10**9}},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 10**12},
        {"lora_alpha": "x"},
        {"lora_alpha": 1e400},
        {"lora_alpha": 1e39},
        {"target_modules": 5},
        {"target_modules": None},
        {"target_modules": "("},
        {"target_modules": "nothing"},
        {"target_modules": [3]},
        {"rank_pattern": {"(": 3}},
        {"rank_pattern": [1]},
        {"trainable_token_indices": [10**6]},
        {"trainable_token_indices": ["x"]},
        {"trainable_token_indices": 3},
        {"modules_to_save": [3]},
        {"init_lora_weights": "nothing"},
        {"revision": 3},
        {"use_dora": True},
        {"peft_type": "PREFIX_TUNING"},
    ],
)
def test_a_configuration_that_fits_nothing_is_one_line(folder, change):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))  # 1e400 is Infinity there
    with pytest.raises(
        ValueError, match=r"adapter|target_modules|peft_type='LORA' is not supported"
    ) as caught:
        load_adapter(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", [{"megatron_config": {"a": 1}, "megatron_core": "antigravity"}])
def test_a_configuration_imports_no_module(folder, setting):
    changed(folder, **setting)
    with pytest.raises(ValueError, match="opens other files or imports a module: not supported"):
        load_adapter(folder)


def test_a_damaged_file_of_weights_is_one_line(folder):
    whole = (folder / WEIGHTS).read_bytes()
    damaged = [b"", b"{}", whole[:7], whole[:100], whole[:-1], b"\xff" * 8 + whole[8:], bytes(len(whole))]
    for content in damaged:
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ValueError, match="is no whole safetensors file") as caught:
            load_adapter(folder)
        assert "\n" not in str(caught.value)
    torch.save({}, folder / WEIGHTS)
    with pytest.raises(ValueError, match="is a pickle"):
        load_adapter(folder)


def test_a_header_of_a_length_that_a_pickle_starts_with(folder):
    tensors, seen = load_file(folder / WEIGHTS), set()
    for extra in range(0, 900, 8):
        save_file(tensors, folder / WEIGHTS, {"format": "pt", "note": "a" * extra})
        start = (folder / WEIGHTS).read_bytes()[:2]
        if start in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and start not in seen:
            load_adapter(folder)
            seen.add(start)
    assert len(seen) >= 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(folder, value):
    name, tensor = next(iter(load_file(folder / WEIGHTS).items()))
    tensor[0, 0] = value
    with_tensors(folder, {name: tensor})
    with pytest.raises(ValueError, match=f"'{name}' has NaN or an infinity"):
        load_adapter(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": r"(([a-z._]|[0-9])+)+X"},
        {"target_modules": "all-linear", "exclude_modules": r"([a-z.]+.?)*X"},
        {"rank_pattern": {r"([a-z0-9.]+)+X": 2}},
        {"alpha_pattern": {r"([a-z0-9.]+)+X": 2}},
        {"layers_pattern": [r"([a-z0-9.]+)+X"], "layers_to_transform": [0]},
        {"modules_to_save": [r"([a-z0-9.]+)+X"]},
    ],
)
def test_a_regular_expression_that_takes_for_ever_is_refused(folder, change, monkeypatch):
    monkeypatch.setattr(patterns, "_SECONDS", 0.3)
    changed(folder, **change)
    with pytest.raises(ValueError, match=r"regular expressions .*X.* are not matched in 0\.3 s"):
        load_adapter(folder)


def test_regular_expressions_that_are_quick_are_taken(folder):
    changed(folder, target_modules=r".*\.(query)")
    load_adapter(folder)


def test_pipes_and_devices_are_not_opened(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"adapter='{place}': must be a folder"):
            load_adapter(place)
        for name in (CONFIG, WEIGHTS):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            (copy / name).unlink()
            (copy / name).symlink_to(place)
            with pytest.raises(ValueError, match=f"holds no {name}"):
                load_adapter(copy)
    with pytest.raises(ValueError, match="no plain file"):
        open_adapter((tmp_path / "pipe").rename(tmp_path / "delta.safetensors"))


# Names ----------------------------------------------------------------------------------------------------


def test_a_base_that_an_adapter_names_is_not_fetched_unasked(folder, monkeypatch):
    asked = []

    def fetch(name, *, local_files_only=False, revision=None, **_options):
        asked.append((name, local_files_only, revision))
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    changed(folder, base_model_name_or_path="org/base")
    with pytest.raises(ValueError, match=r"nobody asked for it by name: give name='org/base'"):
        load_adapter(folder)
    with pytest.raises(ValueError, match="was not found"):
        load_adapter(folder, name="org/base@v2")
    with pytest.raises(ValueError, match="was not found"):
        load_adapter("org/adapter@v1")
    assert asked == [("org/base", True, None), ("org/base", False, "v2"), ("org/adapter", False, "v1")]
    with pytest.raises(ValueError, match="revision='v2': adapter='org/adapter@v1' says another"):
        load_adapter("org/adapter@v1", revision="v2")


def test_a_tokenizer_that_is_given_is_taken_and_counts_in_the_name(folder):
    own, _ = load_adapter(folder)
    other = tiny_tokenizer("bert")
    backbone, _ = load_adapter(folder, tokenizer=other)
    assert backbone.tokenizer is other
    assert own.provenance["weights_sha256"]
    assert backbone.provenance["weights_sha256"] is None
    assert "contents_sha256" in backbone.provenance


def test_a_base_that_a_delta_names_is_not_fetched_unasked(tmp_path, monkeypatch):
    asked = []

    def fetch(name, *, local_files_only, revision, **_options):
        asked.append((name, local_files_only, revision))
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    backbone = replace(tiny("bert"), name="org/base")
    backbone.provenance.update(name="org/base", revision="0123")
    delta = make_delta("layernorm", backbone)
    save_delta(tmp_path / "delta.safetensors", delta, delta.initial())
    with pytest.raises(ValueError, match=r"nobody asked for it by name: give name='org/base'"):
        open_adapter(tmp_path / "delta.safetensors")
    with pytest.raises(ValueError, match="was not found"):
        open_adapter(tmp_path / "delta.safetensors", "org/base@v2")
    assert asked == [("org/base", True, "0123"), ("org/base", False, "v2")]
    write_tensors(tmp_path / "delta.safetensors", {"delta": torch.zeros(3)}, {"backbone": ["org/base"]})
    with pytest.raises(ValueError, match="names no backbone: it is no whole delta"):
        open_adapter(tmp_path / "delta.safetensors")


def test_written_files_follow_the_umask(tmp_path):
    delta = make_delta("lora", tiny("bert"), r=2)
    before = os.umask(0o027)
    try:
        to_peft(delta, delta.initial(), tmp_path / "adapter")
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "adapter").iterdir()} == {0o640}
