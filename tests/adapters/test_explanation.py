"""What an adapter uses: against dense spectra, peft's own forward and mutants that must be seen."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_task

from deltatheory.adapters import explain, explanation, open_adapter, to_peft, truncation
from deltatheory.adapters.adapter import PeftAdapter, TrainedAdapter
from deltatheory.adapters.truncation import effect_kept
from deltatheory.backbones import Backbone
from deltatheory.deltas import make_delta
from deltatheory.deltas.files import save_delta
from deltatheory.deltas.lora import LoRA
from deltatheory.problems import ClassificationProblem, Setup

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

FIRST, SECOND = "encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.value"
GPT2 = {"r": 3, "alpha": 4.5, "rank_pattern": {r"1\..*": 2}, "targets": ["attn.c_attn", "mlp.c_proj"]}


def task():
    """The toy task with as many dev as test examples."""
    toy = toy_task()
    return replace(toy, dev=toy.train)


def planted(backbone: Backbone, changes: dict[str, torch.Tensor], r: int = 4) -> tuple[LoRA, torch.Tensor]:
    """A LoRA of rank r whose ΔW are the given ones, and 0 in the other query and value maps."""
    delta = LoRA(backbone, r=r, alpha=2.0)
    start = delta.factors(delta.initial())
    pieces = {}
    for name, (a, b) in start.items():
        pieces[f"{name}.A"], pieces[f"{name}.B"] = torch.zeros_like(a), torch.zeros_like(b)
        if name in changes:
            # any B A of this rank: mixed, so that no factor shows the rank
            u, s, v = torch.linalg.svd(changes[name])
            mix = torch.linalg.qr(torch.randn(r, r, generator=torch.Generator().manual_seed(3)))[0]
            pieces[f"{name}.A"] = mix @ v[:r] - a
            pieces[f"{name}.B"] = u[:, :r] * s[:r] @ mix.T / delta.scaling(name)
    return delta, delta.coordinates.join(pieces)


def low_rank(sizes: list[float], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(16, len(sizes), generator=generator))[0] for _ in range(2))
    return u @ torch.diag(torch.tensor(sizes)) @ v.T


def random_point(delta) -> torch.Tensor:
    return 0.2 * torch.randn(delta.size, generator=torch.Generator().manual_seed(1))


def of(report, name: str):
    return next(m for m in report.modules if m.name == name)


def at_hand(folder, family: str = "bert", model=None, **options):
    """An adapter in PEFT's format on a model that is there."""
    model = tiny_model(family) if model is None else model
    return open_adapter(folder, model, tokenizer=tiny_tokenizer(family), **options)


def on_tiny(file, family: str = "bert"):
    """A file of `save_delta` on a model that is there."""
    return open_adapter(file, tiny(family))


def test_a_planted_rank_is_found(tmp_path):
    backbone = tiny("bert")
    delta, point = planted(backbone, {FIRST: low_rank([3.0, 1.0], 0), SECOND: low_rank([2.0], 1)})
    to_peft(delta, point, tmp_path)
    report = explain(at_hand(tmp_path))
    two, one = of(report, FIRST), of(report, SECOND)
    assert (two.rank, two.used, two.wasted, two.kept) == (4, 2, 2, 2)
    assert (one.used, one.wasted) == (1, 3)
    idle = [m for m in report.modules if m.name not in (FIRST, SECOND)]
    assert [(m.used, m.wasted, m.effective_rank, m.amplification) for m in idle] == [(0, 4, 0.0, None)] * 2
    assert (report.total_rank, report.used_rank, report.kept_rank) == (16, 3, 3)
    assert report.rank_pattern == {FIRST: 2, SECOND: 1}
    p = torch.tensor([0.9, 0.1])
    assert two.effective_rank == pytest.approx(float((-p * p.log()).sum().exp()), rel=1e-5)
    assert one.effective_rank == pytest.approx(1, rel=1e-5)
    # 0.9 of the spectrum lies in one direction; a higher share needs both
    assert of(explain(at_hand(tmp_path), keep=0.89), FIRST).used == 1
    assert of(explain(at_hand(tmp_path), keep=1.0), FIRST).used == 2
    assert any(f.startswith("Unverified") for f in report.findings)
    assert report.effect_kept is None


@pytest.mark.parametrize(
    ("family", "options"), [("gpt2", GPT2), ("bert", {"r": 2, "targets": ["all-linear"]})]
)
def test_spectra_and_movement_are_those_of_the_dense_change(family, options, tmp_path):
    backbone = tiny(family)
    delta = LoRA(backbone, **options)
    point = random_point(delta)
    to_peft(delta, point, tmp_path)
    report = explain(at_hand(tmp_path, family))
    new = delta.parameters(point)
    assert [m.name for m in report.modules] == list(delta.targets)
    changes, weights = 0.0, 0.0
    for m in report.modules:
        weight = backbone.model.get_parameter(f"{m.name}.weight").detach()
        change = (new[f"{m.name}.weight"] - weight).double()
        u, dense, v = torch.linalg.svd(change)
        assert m.rank == delta.ranks[m.name] == len(m.singular_values)
        torch.testing.assert_close(
            torch.tensor(m.singular_values).double(), dense[: m.rank], rtol=1e-5, atol=1e-5
        )
        assert m.movement == pytest.approx(float(change.norm() / weight.norm()), rel=1e-4)
        inwards, matrix = (u[:, 0], weight.T) if family == "gpt2" else (v[0], weight)
        expected = float(dense[0] / (matrix.double() @ inwards).norm())
        assert m.amplification == pytest.approx(expected, rel=1e-4)
        changes, weights = changes + float(change.norm()) ** 2, weights + float(weight.norm()) ** 2
    assert report.movement == pytest.approx((changes / weights) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_smallest_ranks_that_keep_the_effect_are_verified_in_peft(family, tmp_path):
    backbone = tiny(family)
    delta = LoRA(backbone, **(GPT2 if family == "gpt2" else {"r": 3}))
    point = random_point(delta)
    to_peft(delta, point, tmp_path / "adapter")
    report = explain(at_hand(tmp_path / "adapter", family), {"task": task()}, keep=0.9)
    curve = dict(report.curve)
    total = report.kept_rank
    assert 0 < total < report.total_rank
    assert sum(report.rank_pattern.values()) == total
    assert curve[total] >= 0.9 > curve[total - 1]
    assert sorted(report.rank_pattern) == sorted(m.name for m in report.modules if m.kept)
    # the effect and the accuracies, with peft's own forward
    problem = ClassificationProblem(backbone, task(), delta, check=False)
    frozen = problem.predict(delta.initial(), problem.test)
    full = problem.predict(point, problem.test)
    right = problem.test.labels
    report.save(tmp_path / "out")
    loaded = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path / "out" / "truncated").eval()
    batch, _ = problem.batch(problem.test, range(len(problem.test)))
    with torch.no_grad():
        out = loaded(input_ids=batch.input_ids, attention_mask=batch.mask.long(), output_hidden_states=True)
    theirs = problem.head(backbone.pool(out.hidden_states[-1], batch))
    lost = 1 - (theirs - full).square().sum() / (full - frozen).square().sum()
    assert report.effect_kept == pytest.approx(float(lost), abs=1e-4)
    for value, logits in ((report.frozen, frozen), (report.full, full), (report.truncated, theirs)):
        assert value == pytest.approx(float((logits.argmax(1) == right).double().mean()))
    lora, kept = report.adapter
    mine = lora.backbone.hidden_states(batch, lora.edit(kept))
    mask = batch.mask[:, :, None]
    torch.testing.assert_close(mine * mask, out.hidden_states[-1] * mask, rtol=0, atol=1e-5)
    written = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert written["rank_pattern"] == report.rank_pattern
    config = json.loads((tmp_path / "out" / "truncated" / "adapter_config.json").read_text())
    assert set(config["rank_pattern"].values()) | {config["r"]} == set(report.rank_pattern.values())
    # counted: 12 test examples three times, 24 of dev and train, label words, two texts to compare
    measured = len(report.curve) - 1
    assert report.passes == 3 * 12 + 24 * (2 + measured) + 24 + 2 + 2


def test_the_whole_adapter_keeps_all_of_the_effect(tmp_path):
    backbone = tiny("bert")
    delta = LoRA(backbone, r=2)
    save_delta(tmp_path / "delta.safetensors", delta, random_point(delta))
    tried = []
    given = {"keep": 1.0, "on_truncation": lambda *one: tried.append(one)}
    report = explain(on_tiny(tmp_path / "delta.safetensors"), {"task": task()}, **given)
    assert sorted(tried) == report.curve[1:]
    assert report.kept_rank == report.total_rank
    assert report.curve[-1] == (report.total_rank, pytest.approx(1, abs=1e-6))
    assert report.effect_kept == pytest.approx(1, abs=1e-6)
    assert all(effect < 1 - 1e-6 for _, effect in report.curve[:-1])
    assert not any(f.startswith("Below") for f in report.findings)


def anisotropic(backbone: Backbone) -> tuple[LoRA, torch.Tensor]:
    """ΔW that is strongest where its inputs are weakest."""
    problem = ClassificationProblem(backbone, task(), make_delta("bitfit", backbone), check=False)
    batch, _ = problem.batch(problem.train, range(24))
    x = backbone.embed(batch)[batch.mask.bool()].double()
    _, vectors = torch.linalg.eigh(x.T @ x)
    out = torch.linalg.qr(torch.randn(16, 2, generator=torch.Generator().manual_seed(5)))[0]
    change = 1.5 * out[:, :1] @ vectors[:, :1].T.float() + out[:, 1:] @ vectors[:, -1:].T.float()
    return planted(backbone, {SECOND: change})


def test_truncation_by_the_inputs_beats_that_by_the_spectrum(tmp_path, monkeypatch):
    backbone = tiny("bert")
    delta, point = anisotropic(backbone)
    path = tmp_path / "delta.safetensors"
    save_delta(path, delta, point)
    report = explain(on_tiny(path), {"task": task()}, keep=0.9)
    assert of(report, SECOND).used == 2
    assert report.rank_pattern == {SECOND: 1}
    assert report.effect_kept >= 0.9
    # the best rank 1 by the spectrum alone, at the same rank
    problem = ClassificationProblem(backbone, task(), delta, check=False)
    frozen, full = (problem.predict(x, problem.test) for x in (delta.initial(), point))
    change = delta.parameters(point)[f"{SECOND}.weight"] - backbone.model.get_parameter(f"{SECOND}.weight")
    u, s, v = torch.linalg.svd(change)
    problem.delta, cut = planted(backbone, {SECOND: s[0] * u[:, :1] @ v[:1]})
    assert effect_kept(problem.predict(cut, problem.test), full, frozen) < 0.9

    def unweighted(problem, held, factors):
        return {name: (a @ a.T).double() for name, (a, _) in factors.items()}

    monkeypatch.setattr(explanation, "moments_of", unweighted)
    assert explain(on_tiny(path), {"task": task()}, keep=0.9).rank_pattern == {SECOND: 2}


def test_moments_are_those_of_the_real_tokens():
    backbone = tiny("bert")
    delta, point = anisotropic(backbone)
    factors = TrainedAdapter(delta, point).factors()
    problem = ClassificationProblem(backbone, task(), delta, check=False)
    batch, _ = problem.batch(problem.train, range(24))
    x = backbone.embed(batch)[batch.mask.bool()].double()  # what the maps of the first block receive
    a = factors[FIRST][0].double()
    expected = a @ (x.T @ x / len(x)) @ a.T
    torch.testing.assert_close(
        truncation.moments_of(problem, TrainedAdapter(delta, point), factors)[FIRST], expected
    )


def test_what_no_input_reaches_comes_last_and_is_not_lost():
    factors = {"m": (torch.eye(2), torch.eye(2))}
    vectors, values = truncation.bases_of(factors, {"m": torch.diag(torch.tensor([1.0, 0.0]).double())})["m"]
    assert len(values) == 2
    assert float(values[1] / values[0]) < 1e-3
    torch.testing.assert_close(vectors.abs(), torch.eye(2).double())


def test_a_unilora_is_the_lora_that_it_is(tmp_path):
    backbone = tiny("bert")
    delta = make_delta("unilora", backbone, d=9, r=2)
    save_delta(tmp_path / "d.safetensors", delta, random_point(delta))
    report = explain(on_tiny(tmp_path / "d.safetensors"))
    assert [m.rank for m in report.modules] == [2] * 4


def test_other_deltas_have_movement_only(tmp_path):
    backbone = tiny("bert")
    delta = make_delta("bitfit", backbone)
    point = random_point(delta)
    save_delta(tmp_path / "d.safetensors", delta, point)
    report = explain(on_tiny(tmp_path / "d.safetensors"), {"task": task()})
    new = delta.parameters(point)
    assert {m.name for m in report.modules} == set(new)
    for m in report.modules:
        old = backbone.model.get_parameter(m.name).detach()
        assert m.movement == pytest.approx(float((new[m.name] - old).norm() / old.norm()), rel=1e-4)
        assert m.rank is m.used is m.singular_values is None
    assert report.total_rank is report.kept_rank is report.truncated is None
    assert any("do not apply to delta='bitfit'" in f for f in report.findings)
    problem = ClassificationProblem(backbone, task(), delta, check=False)
    assert report.full == problem.evaluate(point, problem.test)["accuracy"]
    assert report.frozen == problem.evaluate(delta.initial(), problem.test)["accuracy"]
    report.save(tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"answer.json", "explanation.json", "report.html"}


@pytest.mark.parametrize("dora", [False, True])
def test_of_other_peft_adapters_the_movement_is_that_of_the_merged_model(dora, tmp_path):
    lora = peft.LoraConfig(target_modules=["query"], r=2, use_dora=True, init_lora_weights=False)
    ia3 = peft.IA3Config(target_modules=["value"], feedforward_modules=[])
    model = peft.get_peft_model(tiny_model("bert"), lora if dora else ia3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.mul_(1.25)
    model.save_pretrained(tmp_path)
    held = at_hand(tmp_path, check_name=False)
    report = explain(held, {"task": task()})
    old, new = tiny_model("bert"), model.merge_and_unload()
    assert len(report.modules) == (2 if dora else 4)  # (IA)³ scales biases too
    for m in report.modules:
        before, after = old.get_parameter(m.name).detach(), new.get_parameter(m.name).detach()
        assert m.movement == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
        module, leaf = m.name.rsplit(".", 1)
        kept = held.backbone.model.get_submodule(module).get_base_layer()
        assert torch.equal(getattr(kept, leaf), before)
    assert report.total_rank is None
    backbone = tiny("bert")
    problem = ClassificationProblem(backbone, task(), make_delta("full", backbone), check=False)
    assert report.frozen == problem.evaluate(problem.delta.initial(), problem.test)["accuracy"]


def test_a_model_at_hand_comes_back_as_it_was(tmp_path):
    delta = LoRA(tiny("bert"), r=2)
    to_peft(delta, random_point(delta), tmp_path)
    model = tiny_model("bert")
    explain(at_hand(tmp_path, model=model))
    state, before = model.state_dict(), tiny_model("bert").state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_bad_input_is_refused_by_name(tmp_path):
    backbone = tiny("bert")
    delta = LoRA(backbone, r=2)
    for keep in (0.0, 1.01, -1.0):
        with pytest.raises(ValueError, match=rf"keep={keep}: must lie in \(0, 1\]"):
            explain(tmp_path, keep=keep)
    to_peft(delta, random_point(delta), tmp_path / "lora")
    model = tiny_model("bert")
    model.config._name_or_path = "org/large"
    with pytest.raises(ValueError, match="adapter of 'tiny-bert', and model is 'org/large'"):
        at_hand(tmp_path / "lora", model=model)
    with pytest.raises(ValueError, match="model=Backbone"):
        explain(tmp_path / "lora", {"model": backbone})
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    torch.save({}, tmp_path / "lora" / "adapter_model.bin")
    with pytest.raises(ValueError, match="pickle"):
        at_hand(tmp_path / "lora")
    with pytest.raises(ValueError, match="is a pickle"):
        explain(tmp_path / "lora" / "adapter_model.bin", {"model": backbone})
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        explain(tmp_path / "none.safetensors", Setup(backbone, task()))

    file = tmp_path / "delta.safetensors"
    save_delta(file, delta, delta.initial())
    with pytest.raises(ValueError, match="changes nothing"):
        explain(open_adapter(file, backbone))
    with pytest.raises(ValueError, match="trained on another backbone"):
        on_tiny(file, "roberta")
    with pytest.raises(ValueError, match="model=BertModel: for a file of save_delta"):
        open_adapter(file, tiny_model("bert"))
    prefix = make_delta("prefix", backbone, length=2)
    save_delta(file, prefix, prefix.initial())
    assert "it moves no parameter" in explain(open_adapter(file, backbone)).findings[0]
    prompt = make_delta("prompt", backbone, length=2)
    to_peft(prompt, prompt.initial(), tmp_path / "prompt")
    assert "do not apply to delta='prompt'" in explain(at_hand(tmp_path / "prompt")).findings[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": "all"}, "keeps whole parameters"),
        ({"init_lora_weights": "pissa"}, "changed the base weights"),
    ],
)
def test_an_adapter_whose_base_is_not_the_frozen_model_is_refused(change, message, tmp_path):
    config = peft.LoraConfig(target_modules=["query"], r=2, **{"init_lora_weights": False} | change)
    peft.get_peft_model(tiny_model("bert"), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        at_hand(tmp_path, check_name=False)


def test_factors_that_do_not_say_all_are_refused(tmp_path, monkeypatch):
    delta = LoRA(tiny("bert"), r=2)
    to_peft(delta, random_point(delta), tmp_path)
    right = PeftAdapter.factors
    monkeypatch.setattr(
        PeftAdapter, "factors", lambda self: {n: (a, 1.1 * b) for n, (a, b) in right(self).items()}
    )
    with pytest.raises(ValueError, match="does more than its factors say"):
        explain(at_hand(tmp_path))


def test_a_change_without_effect_needs_no_rank(tmp_path):
    backbone = tiny("bert")
    delta, point = planted(backbone, {FIRST: 1e-12 * low_rank([1.0], 0)})
    save_delta(tmp_path / "d.safetensors", delta, point)
    report = explain(on_tiny(tmp_path / "d.safetensors"), {"task": task()})
    assert (report.used_rank, report.kept_rank, report.rank_pattern) == (1, 0, {})
    assert report.effect_kept is report.truncated is report.adapter is None
    assert report.full == report.frozen
    assert any("does not change a logit" in f for f in report.findings)
    assert any(f.startswith("Accuracy") for f in report.findings)


def test_the_head_of_a_task_is_left_out_and_named(tmp_path):
    import transformers

    def base():
        torch.manual_seed(0)
        return transformers.AutoModelForSequenceClassification.from_config(tiny_model("bert").config)

    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(base(), config).save_pretrained(tmp_path)
    report = explain(at_hand(tmp_path, model=base(), check_name=False))
    assert [m.used for m in report.modules] == [2, 2]
    assert any(f.startswith("Left out: 2 trained tensors") for f in report.findings)


def test_the_truncated_adapter_of_an_older_explanation_goes_with_it(tmp_path):
    backbone = tiny("bert")
    lora, norms = LoRA(backbone, r=2), make_delta("layernorm", backbone)
    explain(TrainedAdapter(lora, random_point(lora))).save(tmp_path)
    assert (tmp_path / "truncated").exists()
    explain(TrainedAdapter(norms, random_point(norms))).save(tmp_path)
    assert not (tmp_path / "truncated").exists()
