import json

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_task
from torch.nn.functional import cross_entropy

from deltatheory.control.design import design_controller
from deltatheory.control.diagnosis import diagnose
from deltatheory.deltas.files import load_delta
from deltatheory.problems import ClassificationProblem, Setup


def problem_of(backbone, delta, **options):
    return Setup(backbone, toy_task()).classification(delta, options, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    backbone = tiny("bert", dtype=torch.float64)
    rows = []
    problem = problem_of(backbone, "prefix:4", gate="values")
    result = design_controller(problem, settings={"budget": 20.0}, energy_weight=1e-4, on_step=rows.append)
    result.save(folder)
    return backbone, folder, result, rows


def test_the_controller_written_is_the_one_described(run):
    backbone, folder, result, rows = run
    delta, value = load_delta(folder / "delta.safetensors", backbone)
    problem = ClassificationProblem(backbone, toy_task(), delta, "label-words", check=False)
    assert problem.evaluate(value, problem.test) == result.test
    batch, labels = problem.batch(problem.train, range(len(problem.train)))
    loss = float(cross_entropy(problem.logits(value, batch), labels))
    energy = float(value.square().sum())
    assert result.energy == pytest.approx(energy)
    assert result.cost == pytest.approx(loss + 0.5e-4 * energy)
    assert result.cost < rows[0]["cost"]
    assert rows == result.history


def test_layers_share_energy_gramian_and_gradient(run):
    backbone, _, result, _ = run
    assert [layer.name for layer in result.layers] == ["embedding", "block 0", "block 1", "head"]
    assert sum(layer.energy for layer in result.layers) == pytest.approx(result.energy)
    assert sum(layer.gramian_share for layer in result.layers) == pytest.approx(1.0)
    problem = problem_of(backbone, "prefix:4", gate="values")
    batch, labels = problem.batch(problem.train, range(len(problem.train)))
    origin = problem.delta.initial().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(problem.logits(origin, batch), labels), origin)
    total = sum(layer.residual_at_zero**2 for layer in result.layers) ** 0.5
    assert total == pytest.approx(float(gradient.norm()))


def test_files_tell_the_same(run):
    _, folder, result, _ = run
    assert json.loads((folder / "result.json").read_text())["spectrum"] == result.spectrum
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert f"{result.test['accuracy']:.3f}" in page
    assert all(layer.name in page for layer in result.layers)
    assert len(result.spectrum) == len(toy_task().train)


def test_a_shared_control_has_no_layer_of_its_own():
    problem = problem_of(tiny("bert", dtype=torch.float64), "subspace:6")
    result = design_controller(problem, "adam", {"budget": 6.0})
    assert sum(layer.gramian_share for layer in result.layers) == 0.0
    assert sum(layer.energy for layer in result.layers) > result.energy


@pytest.mark.parametrize(
    ("delta", "arguments", "said"),
    [
        ("prefix:2", {"solver": "newton"}, "solver='newton'"),
        ("prefix:2", {"settings": {"speed": 3}}, "speed"),
        ("ladder", {}, "ladder"),
    ],
)
def test_bad_arguments_are_named(delta, arguments, said):
    with pytest.raises(ValueError, match=said):
        design_controller(problem_of(tiny("bert"), delta), **arguments)


def test_an_adapter_is_written_where_peft_has_a_form(tmp_path, run):
    peft = pytest.importorskip("peft")
    _, folder, prefix, _ = run
    assert prefix.files == ["delta.safetensors"]
    assert not (folder / "adapter").exists()
    lora = design_controller(problem_of(tiny("bert"), "lora:2"), "adam", {"steps": 1})
    lora.save(tmp_path)
    assert lora.files == ["delta.safetensors", "adapter"]
    assert all((tmp_path / name).exists() for name in lora.files)
    assert peft.PeftConfig.from_pretrained(str(tmp_path / "adapter")).r == 2


def test_a_diagnosis_leaves_a_warm_prefix_that_peft_loads(tmp_path):
    peft = pytest.importorskip("peft")
    problem = problem_of(tiny("gpt2"), "prefix:4", gate="none", shift=True)
    diagnosis = diagnose(problem, examples=len(problem.train), warm_start=True)
    assert diagnosis.save(tmp_path) == tmp_path / "report.html"
    kept = json.loads((tmp_path / "diagnosis.json").read_text())
    assert [one["fault"] for one in kept["findings"]] == [one.fault for one in diagnosis.findings]
    cold = problem.evaluate(problem.delta.initial(), problem.train)["loss"]
    assert kept["warm_start"]["loss"] < 0.5 * cold
    start = tmp_path / diagnosis.start_file
    assert peft.PeftConfig.from_pretrained(str(start)).num_virtual_tokens == 4


def test_a_warm_start_without_a_form_in_peft_is_kept_as_it_is_and_only_where_it_was_asked_for(tmp_path):
    problem = problem_of(tiny("bert"), "bitfit")
    diagnosis = diagnose(problem, examples=4, warm_start=True)
    diagnosis.save(tmp_path)
    assert torch.equal(
        load_delta(tmp_path / "delta.safetensors", problem.backbone)[1], diagnosis.warm_start.value
    )
    cold = diagnose(problem, examples=4)
    cold.save(tmp_path / "cold")
    assert json.loads((tmp_path / "cold" / "diagnosis.json").read_text())["warm_start"] is None
    written = {path.name for path in (tmp_path / "cold").iterdir()}
    assert written == {"answer.json", "diagnosis.json", "report.html"}
