"""Adapters of the peft library: read, they are what peft computes; written, peft computes the same."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_task
from torch.nn.functional import cross_entropy

from deltatheory.adapters import from_peft, load_adapter, peft_config, to_peft
from deltatheory.deltas import make_delta
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import PromptTuning
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import ClassificationProblem

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

FAMILIES = ("bert", "gpt2", "llama")
TEXTS = ["a b c d", "e f", "g h i j k l"]
TARGETS = {"bert": ["query", "value"], "gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}
WIDE = {"bert": ["value", "output.dense"], "gpt2": ["c_attn", "mlp.c_proj"], "llama": ["v_proj", "down_proj"]}
INTO = {"bert": ["output.dense"], "gpt2": ["mlp.c_proj"], "llama": ["down_proj"]}


def task_of(family: str) -> str:
    return "FEATURE_EXTRACTION" if family in ("bert", "roberta") else "CAUSAL_LM"


def configuration(method: str, family: str):
    name, options = METHODS[method]
    if not hasattr(peft, name):
        pytest.skip(f"this peft has no {name}")
    options = {key: value[family] if isinstance(value, dict) else value for key, value in options.items()}
    if family == "gpt2" and "target_modules" in options and method != "tinylora":
        options["fan_in_fan_out"] = True
    return getattr(peft, name)(task_type=task_of(family), **options)


METHODS = {
    "lora": ("LoraConfig", {"r": 3, "lora_alpha": 7, "target_modules": TARGETS, "lora_dropout": 0.5}),
    "ia3": ("IA3Config", {"target_modules": WIDE, "feedforward_modules": INTO}),
    "unilora": ("UniLoraConfig", {"r": 2, "theta_d_length": 11, "target_modules": TARGETS}),
    "tinylora": ("TinyLoraConfig", {"r": 2, "u": 5, "target_modules": TARGETS}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 3}),
    "prefix-mlp": (
        "PrefixTuningConfig",
        {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 6},
    ),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_hidden_size": 6}),
    "cartridge": ("CartridgeConfig", {"num_virtual_tokens": 3, "num_frozen_tokens": 1}),
}


def wrapped(method: str, family: str):
    """A peft model whose adapter is not at its start."""
    model = peft.get_peft_model(tiny_model(family), configuration(method, family))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    return model.eval()


def imported(model, family: str, **options):
    return from_peft(model, tokenizer=tiny_tokenizer(family), name=f"tiny-{family}", **options)


def last_hidden(model, batch):
    """What peft's own forward, with a 2-D mask and no positions, gives for the tokens of the texts."""
    seen = []
    base = model.get_base_model()
    base = getattr(base, "base_model", base)
    handle = getattr(base, "decoder", base).register_forward_hook(lambda _m, _a, out: seen.append(out[0]))
    try:
        model(input_ids=batch.input_ids, attention_mask=batch.mask.long())
    finally:
        handle.remove()
    return seen[-1][:, -batch.input_ids.shape[1] :]


def real(hidden, batch):
    return hidden * batch.mask[:, :, None]


def equal(ours, theirs, batch, tolerance=1e-5):
    torch.testing.assert_close(real(ours, batch), real(theirs, batch), rtol=0, atol=tolerance)


def direction(size: int, seed: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_imported_it_is_what_peft_computes(method, family):
    model = wrapped(method, family)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    backbone, delta = imported(model, family)
    batch = backbone.encode(TEXTS)
    assert delta.size == sum(p.numel() for p in trained.values())
    theirs = last_hidden(model, batch)
    equal(backbone.hidden_states(batch, delta.edit(delta.initial())), theirs, batch)
    # and off the adapter's own values
    point = direction(delta.size)
    ours = backbone.hidden_states(batch, delta.edit(point))
    with delta.written(point):
        moved = last_hidden(model, batch)
    assert (real(moved, batch) - real(theirs, batch)).abs().max() > 1e-4
    equal(ours, moved, batch)
    equal(last_hidden(model, batch), theirs, batch, 0)
    # cut at the blocks
    edit = delta.edit(point)
    k = 0 if edit.prompt is None else len(edit.prompt)
    x = backbone.embed(batch, edit)
    for t in range(len(backbone.layers)):
        x = backbone.step(t, x, backbone.prompted(batch, k) if k else batch, edit)
    equal(backbone.readout(x)[:, k:], moved, batch)


@pytest.mark.parametrize(
    ("method", "family"),
    [*((m, "bert") for m in METHODS), *((m, f) for m in ("lora", "prefix", "prompt") for f in FAMILIES[1:])],
)
def test_gradient_and_kernel_are_those_of_autograd_through_peft(method, family):
    model = wrapped(method, family)
    trained = [p for p in model.parameters() if p.requires_grad]
    backbone, delta = imported(model, family)
    problem = ClassificationProblem(backbone, toy_task(), delta, check=False)
    if family != "llama":  # its rotary code rounds to float32, too coarse for finite differences
        assert problem.check().passed

    def gradient(f):
        for p in trained:
            p.requires_grad_(True)
        try:
            return torch.cat([g.reshape(-1) for g in torch.autograd.grad(f(), trained)])
        finally:
            for p in trained:
                p.requires_grad_(False)

    def theirs(batch):
        return problem.head(backbone.pool(last_hidden(model, batch), batch))

    batch, labels = problem.batch(problem.train, range(4))
    _, _, ours = problem.loss_and_gradient(delta.initial(), batch, labels)
    expected = gradient(lambda: cross_entropy(theirs(batch), labels))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    _, pullback = problem.vjp(delta.initial(), batch)
    v = direction(delta.size)
    _, push = problem.jvp(delta.initial(), v, batch)
    assert float((push * push).sum()) == pytest.approx(float(pullback(push) @ v), rel=1e-3)

    features = tangent_rows(problem, train=2, test=0, outputs="margin")
    rows = []
    for i in range(2):
        one, label = problem.batch(problem.train, [i])
        sign = 1.0 if int(label[0]) == 1 else -1.0
        rows.append(sign * gradient(lambda one=one: theirs(one)[0] @ torch.tensor([-1.0, 1.0])))
    expected = torch.stack(rows)
    scale = float((expected @ expected.T).abs().max())
    torch.testing.assert_close(
        features.kernel().float() / scale, expected @ expected.T / scale, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_lora_is_the_frozen_model(family):
    batch = tiny(family).encode(TEXTS)
    model = peft.get_peft_model(tiny_model(family), configuration("lora", family))
    backbone, delta = imported(model, family)
    frozen = tiny(family).hidden_states(batch)
    equal(backbone.hidden_states(batch, delta.edit(delta.initial())), frozen, batch, 1e-6)
    assert backbone.hidden_states(batch).shape == frozen.shape
    assert isinstance(backbone.model.get_submodule(backbone.module_name(0, "ffn_in")), torch.nn.Module)


def test_shared_and_tied_weights_stay_so():
    backbone, delta = imported(wrapped("unilora", "gpt2"), "gpt2")
    shared = {id(p) for n, p in backbone.model.named_parameters(remove_duplicate=False) if "theta_d" in n}
    assert len(shared) == 1
    assert len(delta.coordinates.shapes) == 1
    assert len(delta.parameters(delta.initial())) > 1  # a name for every block, so that a step finds its own
    backbone.hidden_states(backbone.encode(TEXTS), delta.edit(delta.initial()))
    after = {id(p) for n, p in backbone.model.named_parameters(remove_duplicate=False) if "theta_d" in n}
    assert after == shared
    assert backbone.lm_head.weight is backbone.model.wte.weight


def test_the_head_of_a_task_is_left_out_and_named():
    import transformers

    config = tiny_model("bert").config
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_config(config)
    options = {"r": 2, "target_modules": TARGETS["bert"], "init_lora_weights": False}
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", **options))
    backbone, delta = imported(model, "bert")
    assert delta.left_out
    assert all("classifier" in name for name in delta.left_out)
    batch = backbone.encode(TEXTS)
    theirs = last_hidden(model, batch)
    equal(backbone.hidden_states(batch, delta.edit(delta.initial())), theirs, batch)
    specification = delta.specification()
    assert json.loads(json.dumps(specification)) == specification
    assert specification["config"]["r"] == 2


def test_what_cannot_be_imported_is_refused_by_name():
    with pytest.raises(ValueError, match=r"model=BertModel: allowed is a peft\.PeftModel"):
        imported(tiny_model("bert"), "bert")
    model = wrapped("lora", "bert")
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="trains nothing in its transformer: load it with is_trainable=True"):
        imported(model, "bert")
    model = wrapped("lora", "bert")
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"does not act.*unmerge_adapter"):
        imported(model, "bert")
    model = wrapped("lora", "bert")
    trained = [p for p in model.parameters() if p.requires_grad]
    model.base_model.disable_adapter_layers()
    for p in trained:
        p.requires_grad_(True)
    with pytest.raises(ValueError, match=r"does not act.*enable_adapter_layers"):
        imported(model, "bert")


def test_a_forward_that_does_more_than_its_parameters_is_refused():
    model = wrapped("lora", "bert")
    forward = model.forward

    def other(input_ids, **inputs):
        return forward(input_ids=input_ids.flip(1), **inputs)

    model.forward = other
    with pytest.raises(ValueError, match="peft_type='LORA' is not supported: PEFT's own forward does more"):
        imported(model, "bert")


@pytest.mark.parametrize("loaded", [False, True])
def test_targets_that_match_only_partly_are_refused_and_counted(tmp_path, loaded):
    config = peft.LoraConfig(
        task_type="FEATURE_EXTRACTION", r=2, target_modules=["query", "q_proj", "v_proj"]
    )
    model = peft.get_peft_model(tiny_model("bert"), config)
    message = r"target_modules has \['q_proj', 'v_proj'\], which match no module \(2 of 3 entries match none"
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, check_name=False) if loaded else imported(model, "bert")


def test_targets_that_match_nothing_are_refused_by_name(tmp_path):
    exported("lora", "bert", tmp_path, r=2)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["q_proj"]}))
    with pytest.raises(ValueError, match=r"(?s)does not fit 'tiny-bert'.*q_proj.*not found"):
        load(tmp_path, name="tiny-bert")


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_a_prefix_or_prompt_beyond_the_context_is_refused(method):
    name, options = METHODS[method]

    def made(length: int):
        config = getattr(peft, name)(task_type="CAUSAL_LM", **options | {"num_virtual_tokens": length})
        return imported(peft.get_peft_model(tiny_model("gpt2"), config), "gpt2")

    made(39)
    with pytest.raises(ValueError, match="num_virtual_tokens=40: must be below 40, which leaves 'tiny-gpt2'"):
        made(40)


def states_of_a_text(backbone, delta):
    return backbone.hidden_states(backbone.encode(TEXTS), delta.edit(delta.initial()))


DORA = {"bert": ["query", "output.dense"], "gpt2": ["c_attn"], "llama": ["q_proj", "embed_tokens"]}


@pytest.mark.parametrize("family", DORA)
def test_the_derivative_of_dora_is_that_of_what_it_computes(family):
    """PEFT takes the norm of the weights for a constant; the self-check would tell."""
    torch.manual_seed(0)
    options = {"r": 2, "target_modules": DORA[family], "use_dora": True, "init_lora_weights": False}
    config = peft.LoraConfig(task_type=task_of(family), fan_in_fan_out=family == "gpt2", **options)
    model = peft.get_peft_model(tiny_model(family), config).eval()
    ids = torch.tensor([[4, 5, 6, 7]])
    theirs = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    backbone, delta = imported(model, family)
    problem = ClassificationProblem(backbone, toy_task(), delta, check=False)
    assert problem.check().passed
    assert not states_of_a_text(backbone, delta).requires_grad
    after = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(after, theirs, rtol=0, atol=1e-5)


# Export ---------------------------------------------------------------------------------------------------


def exported(kind: str, family: str, folder, **options):
    backbone = tiny(family)
    delta = make_delta(kind, backbone, **options)
    point = direction(delta.size)
    to_peft(delta, point, folder)
    return backbone, delta, point


LORA = {
    "plain": {"r": 3},
    "alpha": {"r": 2, "alpha": 7.5},
    "pattern": {"r": 3, "rank_pattern": {r"1\..*": 1}},
    "pattern-alpha": {"r": 3, "alpha": 5.0, "rank_pattern": {r"0\..*": 2}},
    "all": {"r": 2, "targets": ["all-linear"]},
}
EXPORTS = {
    **{f"lora-{name}": ("lora", options) for name, options in LORA.items()},
    "unilora": ("unilora", {"d": 9, "r": 2, "alpha": 4.0}),
    "ia3": ("ia3", {}),
    "layernorm": ("layernorm", {}),
    "prompt": ("prompt", {"length": 3}),
    "prefix": ("prefix", {"length": 3, "gate": "none", "shift": True}),
    "prefix-mlp": ("prefix", {"length": 3, "gate": "none", "shift": True, "hidden": 5}),
}


@pytest.mark.parametrize(
    ("case", "family"),
    [
        *((c, f) for c in EXPORTS for f in FAMILIES),
        *((c, f) for c in ("lora-pattern", "prompt", "prefix") for f in ("roberta", "qwen3", "opt")),
    ],
)
def test_written_peft_loads_it_and_computes_the_same(case, family, tmp_path):
    kind, options = EXPORTS[case]
    backbone, delta, point = exported(kind, family, tmp_path, **options)
    batch = backbone.encode(TEXTS)
    edit = delta.edit(point)
    ours = backbone.hidden_states(batch, edit)
    loaded = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    equal(ours, last_hidden(loaded, batch), batch)
    assert (real(ours, batch) - real(backbone.hidden_states(batch), batch)).abs().max() > 1e-3
    if backbone.lm_head is not None:
        logits = loaded(input_ids=batch.input_ids, attention_mask=batch.mask.long()).logits
        logits = logits[:, -batch.input_ids.shape[1] :]
        equal(backbone.vocabulary_logits(ours, edit.parameters), logits, batch)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == f"tiny-{family}"
    # and back
    again, delta = load_adapter(tmp_path, tiny_model(family), tokenizer=tiny_tokenizer(family))
    equal(again.hidden_states(batch, delta.edit(delta.initial())), ours, batch)


@pytest.mark.parametrize("change", ["lora_alpha", "alpha_pattern", "rank_pattern", "A"])
def test_mutants_of_a_written_lora_are_seen(change, tmp_path):
    from safetensors.torch import load_file, save_file

    family = "gpt2"
    options = {"r": 3, "alpha": None, "rank_pattern": {r"1\..*": 1}, "targets": ["attn.c_proj"]}
    backbone, delta, point = exported("lora", family, tmp_path, **options)
    batch = backbone.encode(TEXTS)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    if change == "A":
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        start = {n: x for n, x in tensors.items() if "lora_A" in n}
        save_file(
            {**tensors, **{n: 1.1 * x for n, x in start.items()}}, tmp_path / "adapter_model.safetensors"
        )
    else:
        assert config[change]
        config[change] = {"lora_alpha": config["r"] + 1, "alpha_pattern": {}, "rank_pattern": {}}[change]
    path.write_text(json.dumps(config))
    if change == "rank_pattern":
        with pytest.raises(RuntimeError, match="size mismatch"):
            peft.PeftModel.from_pretrained(tiny_model(family), tmp_path)
        return
    loaded = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    theirs = last_hidden(loaded, batch)
    ours = backbone.hidden_states(batch, delta.edit(point))
    assert (real(ours, batch) - real(theirs, batch)).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_an_imported_adapter_goes_back_trained(method, family, tmp_path):
    model = wrapped(method, family)
    backbone, delta = imported(model, family)
    batch = backbone.encode(TEXTS)
    point = direction(delta.size)
    ours = backbone.hidden_states(batch, delta.edit(point))
    to_peft(delta, point, tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    equal(ours, last_hidden(loaded, batch), batch)
    assert not delta.model.active_peft_config.inference_mode


def test_a_configuration_alone_is_what_peft_trains():
    backbone = tiny("gpt2")
    ours = make_delta("ia3", backbone)
    config = peft.get_peft_config(peft_config(ours))
    assert (config.base_model_name_or_path, config.task_type) == ("tiny-gpt2", "CAUSAL_LM")
    _, delta = imported(peft.get_peft_model(tiny_model("gpt2"), config), "gpt2")
    assert delta.size == ours.size + 2 * 16  # it also scales queries, which one module makes with the keys
    head = peft_config(make_delta("lora", tiny("bert"), r=2), train_head=True)
    assert (head["task_type"], head["modules_to_save"]) == ("SEQ_CLS", ["classifier"])


def test_the_base_is_named_as_the_hub_knows_it():
    backbone = tiny("bert")
    backbone.name = "minilm"
    backbone.provenance |= {"name": "minilm", "revision": "release==1", "weights_sha256": "0" * 64}
    config = peft_config(make_delta("lora", backbone))
    named = config["base_model_name_or_path"], config["revision"]
    assert named == ("sentence-transformers/all-MiniLM-L6-v2", None)
    backbone.name, backbone.provenance = "org/model", {"revision": "0123abc"}
    config = peft_config(make_delta("lora", backbone))
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", "0123abc")


def test_what_peft_has_no_form_for_is_refused_by_name(tmp_path):
    backbone = tiny("bert")
    for options in (
        {"gate": "zero"},
        {"gate": "none", "shift": False},
        {"gate": "none", "shift": True, "blocks": [0]},
    ):
        delta = PrefixTuning(backbone, length=2, **options)
        with pytest.raises(ValueError, match=r"gate='none', shift=True and all blocks; .*save_delta"):
            to_peft(delta, delta.initial(), tmp_path)
    delta = make_delta("subspace", backbone, d=3)
    with pytest.raises(ValueError, match=r"delta='subspace' has no form in PEFT.*save_delta"):
        to_peft(delta, delta.initial(), tmp_path)
    delta = PromptTuning(backbone, length=2)
    with pytest.raises(ValueError, match=r"values.shape=\(3,\): 'prompt' needs \(32,\)"):
        to_peft(delta, torch.zeros(3), tmp_path)
    assert not list(tmp_path.iterdir())


# Loading --------------------------------------------------------------------------------------------------


def other_bert(**changes):
    model = tiny_model("bert")
    for key, value in changes.items():
        setattr(model.config, key, value)
    return type(model)(model.config)


def load(folder, family="bert", **options):
    return load_adapter(folder, tiny_model(family), tokenizer=tiny_tokenizer(family), **options)


def test_a_pickle_is_refused(tmp_path):
    exported("lora", "bert", tmp_path, r=2)
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"holds no adapter_model.safetensors.*pickle"):
        load(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        load(tmp_path)
    with pytest.raises(ValueError, match="revision='main' is only for hub ids"):
        load(tmp_path, revision="main")


def test_an_adapter_of_another_base_is_refused_and_both_are_named(tmp_path):
    exported("lora", "bert", tmp_path, r=2)
    with pytest.raises(ValueError, match=r"adapter of 'tiny-bert', and model is 'org/large'"):
        load(tmp_path, name="org/large")
    load(tmp_path, name="org/tiny-bert")
    load(tmp_path, name="org/large", check_name=False)
    base = other_bert(hidden_size=24)
    with pytest.raises(ValueError, match=r"(?s)'tiny-bert', does not fit 'big' \(BertModel\).*size mismatch"):
        load_adapter(tmp_path, base, tokenizer=tiny_tokenizer("bert"), name="big", check_name=False)
    with pytest.raises(ValueError, match=r"does not fit 'tiny-bert' \(GPT2LMHeadModel\)"):
        load(tmp_path, "gpt2", name="tiny-bert")
    # A shallower and a deeper base: peft would drop tensors, or leave random ones, and only warn.
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": TARGETS["bert"]}))
    for layers in (1, 3):
        base = other_bert(num_hidden_layers=layers)
        with pytest.raises(ValueError, match=r"does not fit 'tiny-bert'.*tensors are in its file"):
            load_adapter(tmp_path, base, tokenizer=tiny_tokenizer("bert"), name="tiny-bert")


def test_the_base_is_found_by_its_name(tmp_path):
    for family in ("bert", "gpt2"):
        base, adapter = tmp_path / f"base-{family}", tmp_path / f"adapter-{family}"
        tiny_model(family).save_pretrained(base)
        tiny_tokenizer(family).save_pretrained(base)
        backbone, delta, point = exported("lora", family, adapter, r=2)
        with pytest.raises(ValueError, match=f"name='tiny-{family}'"):
            load_adapter(adapter)
        shutil.rmtree(adapter)
        to_peft(delta, point, adapter, base_model_name=str(base))
        again, imported_delta = load_adapter(adapter)
        batch = backbone.encode(TEXTS)
        ours = backbone.hidden_states(batch, delta.edit(point))
        equal(again.hidden_states(batch, imported_delta.edit(imported_delta.initial())), ours, batch)
        assert again.provenance["weights_sha256"]
        assert again.name == str(base)
    with pytest.raises(ValueError, match="tokenizer=None"):
        load_adapter(adapter, tiny_model("gpt2"))


def test_an_imported_lora_has_the_size_of_ours():
    _, delta = imported(wrapped("lora", "bert"), "bert")
    assert delta.size == LoRA(tiny("bert"), r=3).size
