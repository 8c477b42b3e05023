import json

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_task
from torch.nn.functional import cross_entropy

from deltatheory.control.design import design_controller
from deltatheory.control.diagnosis import diagnose_task
from deltatheory.deltas.files import load_delta
from deltatheory.problems import ClassificationProblem, load_problem


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    backbone = tiny("bert", dtype=torch.float64)
    rows = []
    result = design_controller(
        backbone,
        toy_task(),
        "prefix:4",
        settings={"budget": 20.0},
        examples=None,
        test_examples=None,
        energy=1e-4,
        out=folder,
        on_step=rows.append,
    )
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
    problem = load_problem(backbone, toy_task(), "prefix:4", {"gate": "values"})
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


def test_a_shared_control_has_no_layer_of_its_own(tmp_path):
    result = design_controller(
        tiny("bert", dtype=torch.float64),
        toy_task(),
        "subspace:6",
        solver="adam",
        settings={"budget": 6.0},
        examples=12,
        out=tmp_path,
    )
    assert sum(layer.gramian_share for layer in result.layers) == 0.0
    assert sum(layer.energy for layer in result.layers) > result.energy


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"delta": "prefix:1000"}, "length=1000"),
        ({"solver": "newton"}, "solver='newton'"),
        ({"settings": {"speed": 3}}, "speed"),
        ({"delta": "ladder"}, "ladder"),
    ],
)
def test_bad_arguments_are_named(bad, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        design_controller(
            tiny("bert"), toy_task(), examples=None, out=tmp_path, **{"delta": "prefix:2", **bad}
        )


def test_a_diagnosis_leaves_a_warm_prefix_that_peft_loads(tmp_path):
    peft = pytest.importorskip("peft")
    backbone = tiny("gpt2")
    diagnosis, start = diagnose_task(backbone, toy_task(), "prefix:4", examples=None, out=tmp_path)
    kept = json.loads((tmp_path / "diagnosis.json").read_text())
    assert [one["fault"] for one in kept["findings"]] == [one.fault for one in diagnosis.findings]
    problem = load_problem(backbone, toy_task(), "prefix:4", {"gate": "none", "shift": True})
    cold = problem.evaluate(problem.delta.initial(), problem.train)["loss"]
    assert kept["warm_start"]["loss"] < 0.5 * cold
    assert peft.PeftConfig.from_pretrained(str(start)).num_virtual_tokens == 4
