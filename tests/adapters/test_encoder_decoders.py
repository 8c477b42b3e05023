"""Adapters of peft on encoder-decoders, in and out: what peft computes itself."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny, tiny_model, tiny_tokenizer

from deltatheory.adapters import from_peft, load_adapter, to_peft
from deltatheory.backbones import CachedTexts
from deltatheory.deltas import make_delta
from deltatheory.problems.tokens import batch_of

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROWS, ANSWERS = [[4, 9, 5, 12, 8], [5, 7], [10, 6, 11]], [[6, 7], [9, 4], [8, 11]]
# PEFT gives a prefix the heads of the encoder.
SIZES = {"t5": {}, "bart": {"decoder_attention_heads": 2, "decoder_layers": 2}}
MAPS = {"t5": ["q", "v"], "bart": ["q_proj", "v_proj"]}
NORMS = {"t5": ["layer_norm"], "bart": ["final_layer_norm"]}
WIDE = {"t5": ["k", "v", "wo"], "bart": ["k_proj", "v_proj", "fc2"]}
METHODS = {
    "lora": ("LoraConfig", {"r": 3, "lora_alpha": 7, "target_modules": MAPS}),
    "ia3": ("IA3Config", {"target_modules": WIDE, "feedforward_modules": {"t5": ["wo"], "bart": ["fc2"]}}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 3}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 3}),
    "ptuning": ("PromptEncoderConfig", {"num_virtual_tokens": 3, "encoder_hidden_size": 8}),
    "layernorm": ("LNTuningConfig", {"target_modules": NORMS}),
    "oft": ("OFTConfig", {"r": 0, "oft_block_size": 4, "target_modules": MAPS}),
}


def base(family):
    return tiny_model(family, **SIZES[family])


def logits_of(model, batch):
    """What peft's own forward gives, from 2-D masks and no positions."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.mask.long()}
    return model(**inputs, decoder_input_ids=batch.decoder.input_ids).logits


def text(backbone):
    return batch_of(backbone, ROWS, answers=[[*backbone.start, *row] for row in ANSWERS])


def close(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("t5", "lora"),
        ("t5", "ia3"),
        ("t5", "prefix"),
        ("bart", "prefix"),
        ("bart", "prompt"),
        ("t5", "ptuning"),
        ("t5", "layernorm"),
        ("bart", "oft"),
    ],
)
@torch.no_grad()
def test_in_and_out_they_are_what_peft_computes(method, family, tmp_path):
    name, options = METHODS[method]
    options = {key: value[family] if isinstance(value, dict) else value for key, value in options.items()}
    config = getattr(peft, name)(task_type="SEQ_2_SEQ_LM", **options)
    model = peft.get_peft_model(base(family), config).eval()
    for p in model.parameters():
        if p.requires_grad:
            p.add_(0.3 * torch.randn_like(p))
    backbone, delta = from_peft(model, tokenizer=tiny_tokenizer(family), name="x")
    batch = text(backbone)
    point = 0.1 * torch.randn(delta.size, generator=torch.Generator().manual_seed(1))
    edit = delta.edit(point)
    ours = backbone.vocabulary_logits(backbone.hidden_states(batch, edit))
    with delta.written(point):
        close(ours, logits_of(model, batch))
    frozen = backbone.vocabulary_logits(backbone.hidden_states(batch, delta.edit(delta.initial())))
    assert (ours - frozen).abs().max() > 1e-3
    # block by block
    k = 0 if edit.prompt is None else len(edit.prompt)
    x, prompted = backbone.embed(batch, edit), backbone.prompted(batch, k) if k else batch
    for t in range(len(backbone.layers)):
        x = backbone.step(t, x, prompted, edit)
    close(backbone.readout(x, batch), backbone.hidden_states(batch, edit))
    # token by token, with kept keys
    texts = CachedTexts(backbone, batch_of(backbone, ROWS), edit)
    for tokens in zip(*ANSWERS, strict=True):
        texts.read(torch.tensor(tokens))
    close(backbone.vocabulary_logits(texts.last), ours[:, -1])
    # and out again
    to_peft(delta, point, tmp_path)
    close(logits_of(peft.PeftModel.from_pretrained(base(family), tmp_path).eval(), batch), ours)


OWN = {
    "lora": {"r": 2},
    "prefix": {"length": 3, "gate": "none", "shift": True, "blocks": [2, 3], "attention": "self"},
    "prompt": {"length": 3},
    "ia3": {},
    "layernorm": {},
}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("t5", "prefix"),
        ("t5", "ia3"),
        ("bart", "lora"),
        ("bart", "prefix"),
        ("t5", "prompt"),
        ("bart", "layernorm"),
    ],
)
@torch.no_grad()
def test_own_deltas_are_written_for_peft(name, family, tmp_path):
    backbone = tiny(family, **SIZES[family])
    delta = make_delta(name, backbone, **OWN[name])
    point = 0.2 * torch.randn(delta.size, generator=torch.Generator().manual_seed(1))
    to_peft(delta, point, tmp_path)
    batch = text(backbone)
    ours = backbone.vocabulary_logits(backbone.hidden_states(batch, delta.edit(point)))
    close(logits_of(peft.PeftModel.from_pretrained(base(family), tmp_path).eval(), batch), ours)
    about = {"tokenizer": tiny_tokenizer(family), "check_name": False}
    again, read = load_adapter(tmp_path, base(family), **about)
    close(again.vocabulary_logits(again.hidden_states(batch, read.edit(read.initial()))), ours)


def test_what_has_no_form_in_peft_is_said(tmp_path):
    delta = make_delta("prefix", tiny("t5"), length=2, gate="none", shift=True)
    with pytest.raises(ValueError, match=r"allowed are .*blocks=\[2, 3\] with attention='self'"):
        to_peft(delta, delta.initial(), tmp_path)


def test_an_adapter_of_a_causal_head_is_refused(tmp_path):
    base("bart").save_pretrained(tmp_path / "base")
    tiny_tokenizer("bart").save_pretrained(tmp_path / "base")
    delta = make_delta("lora", tiny("bart", **SIZES["bart"]), r=2)
    to_peft(delta, delta.initial(), tmp_path / "adapter", str(tmp_path / "base"))
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace("SEQ_2_SEQ_LM", "CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"task_type='CAUSAL_LM' asks of the encoder-decoder 'bart'"):
        load_adapter(tmp_path / "adapter")
