"""Models that a device map has spread: kernels block by block, and what is refused; devices are made up."""

from __future__ import annotations

from math import prod

import pytest
import torch
from device_cases import MAPS, spread
from fake_devices import fake_devices
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import copy_task, origin, toy_task

from deltatheory.backbones import load_backbone, wrap_model
from deltatheory.control import design_controller
from deltatheory.control.feedback import steer
from deltatheory.control.reach.question import pose
from deltatheory.deltas import make_delta
from deltatheory.dimension import DimensionSettings, intrinsic_dimension
from deltatheory.dimension.predict import kernel_rows
from deltatheory.linearization.factors import tangent_kernels
from deltatheory.problems import ClassificationProblem, GenerationProblem, Setup
from deltatheory.training import Training, train

accelerate = pytest.importorskip("accelerate")

DELTAS = {
    "bert": [("bitfit", {}), ("compacter", {"n": 2, "bottleneck": 4}), ("parallel-adapter", {})],
    "llama": [("full", {}), ("lora", {"r": 2}), ("adapter", {}), ("prefix", {"length": 1, "hidden": 2})],
    "t5": [("full", {"scope": "all"})],
}
SEAMS = {"bert": 6, "llama": 6, "t5": 10}  # here the encoder ends on another device than its blocks
TEXTS, TOKENS, WIDTH = 3, 5, 16


def problem_of(backbone, delta="lora", **options) -> ClassificationProblem:
    task = toy_task(length=TOKENS)
    return ClassificationProblem(backbone, task, make_delta(delta, backbone, **options), check=False)


def kernels(backbone, deltas, before=lambda: None):
    made = [make_delta(name, backbone, **options) for name, options in deltas]
    problem = problem_of(backbone)
    before()
    return tangent_kernels(problem, made, train=TEXTS, test=0)


@pytest.mark.parametrize("family", DELTAS)
def test_each_device_forms_its_part_of_a_kernel_and_only_states_at_seams_are_of_their_size(family):
    expected = kernels(tiny(family), DELTAS[family])
    with fake_devices() as devices:
        backbone = spread(family, "ipu")
        assert [str(device) for device in backbone.devices] == ["ipu:0", "ipu:1"]
        found = kernels(backbone, DELTAS[family], before=devices.copies.clear)
    for one, other in zip(found, expected, strict=True):
        assert one.parts.keys() == other.parts.keys()
        torch.testing.assert_close(one.kernel(), other.kernel(), rtol=1e-6, atol=0)
    # Of what each token has, x_1 and the last states go, forward and back again, and the costates of both.
    moved = [c.shape for c in devices.copies if "cpu" not in c and len(c.shape) > 2]
    assert len([shape for shape in moved if prod(shape) >= TEXTS * TOKENS * WIDTH]) == SEAMS[family], moved


@pytest.mark.parametrize(
    ("delta", "options"), [("lora", {"r": 2}), ("prefix", {"length": 2, "gate": "none"}), ("layernorm", {})]
)
def test_gradients_of_a_delta_are_those_on_one_device(delta, options):
    def gradient(backbone):
        problem = problem_of(backbone, delta, **options)
        start = 0.1 * torch.arange(problem.delta.size).cos().to(problem.delta.initial())
        return problem.loss_and_gradient(start, *problem.batch(problem.train, [0, 1]))

    loss, _, expected = gradient(tiny("bert"))
    with fake_devices():
        found = gradient(spread("bert", "ipu"))
        assert found[0] == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(found[2].cpu(), expected, rtol=1e-5, atol=1e-7)


def test_a_prediction_of_d90_rests_on_the_kernel_of_all_parameters(monkeypatch):
    monkeypatch.setattr("deltatheory.dimension.predict._SKETCH", 8192)
    expected = kernel_rows(problem_of(tiny("bert"), "full"), Training(), examples=TEXTS)
    with fake_devices():
        problem = problem_of(spread("bert", "ipu"), "full")
        found = kernel_rows(problem, Training(), examples=TEXTS)
        assert found.size == expected.size
        assert problem.passes > 0
        K = found.kernel().cpu()
    assert float((K - expected.kernel()).norm() / K.norm()) < 1e-5


def _stratified(backbone, **about):
    return intrinsic_dimension(Setup(backbone, toy_task(train=8, test=60), head="prototypes"), **about)


REFUSED = {
    "delta='subspace'": lambda b: train(problem_of(b, "subspace", d=4), Training(steps=1)),
    "delta='full'": lambda b: train(problem_of(b, "full"), Training(steps=1)),
    "method='measure'": lambda b: _stratified(b, method="measure"),
    "burn_in=1": lambda b: _stratified(b, method="predict", settings=DimensionSettings(burn_in=1)),
    "device='cpu'": lambda b: b.to("cpu"),
    "control": lambda b: design_controller(problem_of(b)),
    "steer": lambda b: steer(problem_of(b), problem_of(b).delta.initial()),
    "reach": lambda b: pose(Setup(b, toy_task())),
    "generation": lambda b: GenerationProblem(b, copy_task(), make_delta("lora", b)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_wants_one_device_is_refused_by_name(what):
    with fake_devices():
        backbone = spread("bert", "ipu")
        before = origin(backbone)
        about = "not supported on 'ours', which its device_map has spread over ipu:0, ipu:1"
        with pytest.raises(ValueError, match=f"{what}: {about}"):
            REFUSED[what](backbone)
        assert all(torch.equal(p, before[name]) for name, p in backbone.model.named_parameters())


def test_weights_that_a_device_map_has_put_aside_are_refused(tmp_path):
    model = tiny_model("llama")
    places = MAPS["llama"] | dict.fromkeys(MAPS["llama"], "cpu") | {"model.layers.1": "disk"}
    accelerate.dispatch_model(model, places, offload_dir=tmp_path)
    with pytest.raises(
        ValueError, match=r"device_map of 'ours' is over \['cpu', 'disk'\]: weights put aside"
    ):
        wrap_model(model, tiny_tokenizer("llama"), name="ours")


def test_auto_takes_as_many_devices_as_there_are(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer("llama")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), device="auto")
    assert [device.type for device in backbone.devices] == ["cpu"]
    batch = backbone.encode(["a b c"])
    torch.testing.assert_close(backbone.hidden_states(batch), tiny("llama").hidden_states(batch))


def test_auto_without_accelerate_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="device='auto': needs accelerate: pip install accelerate; or give"):
        load_backbone("there-is-none", device="auto")
