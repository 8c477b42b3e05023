from __future__ import annotations

from dataclasses import replace

import delta_cases
import numpy as np
import pytest
import torch
from layered_cases import CASES, known, layered, point
from tiny_models import tiny
from tiny_problems import LETTERS, toy_problem, toy_task

from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.deltas import make_delta
from deltatheory.problems import ClassificationProblem
from deltatheory.tasks import Examples, Task


def pairs_task() -> Task:
    rng = np.random.default_rng(0)

    def text() -> str:
        return " ".join(rng.choice(list(LETTERS), int(rng.integers(1, 6))))

    def examples(n: int) -> Examples:
        labels = tuple(i % 3 for i in range(n))
        return Examples(tuple(text() for _ in labels), tuple(text() for _ in labels), labels=labels)

    names = ("x", "y", "z")
    return Task(
        "pairs",
        "classification",
        names,
        examples(9),
        examples(6),
        examples(6),
        {},
        label_words=("a", "b", "c"),
    )


def test_only_a_state_beside_the_blocks_cannot_be_cut():
    left_out = set(delta_cases.CASES) - set(CASES)
    assert "ladder" in left_out
    for case in left_out:
        with pytest.raises(ValueError, match=r"changes the block '.*' as a whole"):
            known(case, "bert")


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("case", CASES)
def test_a_rollout_is_the_network(case, family):
    system = known(case, family)
    lengths = system.batch.mask.sum(1)
    assert lengths.min() < lengths.max()  # there is padding
    for seed in (1, 2):  # a coordinate that belongs to no step may have any value
        delta = point(system, seed) + (system.copies == 0)
        trajectory = system.rollout(system.split(delta))
        expected = system.problem.logits(delta, system.batch)
        torch.testing.assert_close(trajectory.states[-1], expected, rtol=0, atol=1e-12)
        assert float(trajectory.cost) == pytest.approx(
            float(system.problem.loss(delta, system.batch, system.labels)), abs=1e-12
        )


@pytest.mark.parametrize(("case", "options"), [("prompt", {"length": 2}), ("full scope=all", {})])
@pytest.mark.parametrize("family", ["roberta", "llama", "gemma2", "opt", "gpt_neox"])
def test_other_families(case, options, family):
    system = layered(case, family, dtype=torch.float32, **options)
    delta = point(system)
    logits = system.rollout(system.split(delta)).states[-1]
    torch.testing.assert_close(logits, system.problem.logits(delta, system.batch), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["lora", "prompt", "bitfit"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_pairs_of_texts(case, family):
    system = layered(case, family, task=pairs_task(), indices=None)
    assert len(system.batch) == 9
    delta = point(system)
    logits = system.rollout(system.split(delta)).states[-1]
    torch.testing.assert_close(logits, system.problem.logits(delta, system.batch), rtol=0, atol=1e-12)


def test_a_tied_head_sees_the_tuned_embedding():
    system = layered("full scope=all", "gpt2", head="verbalizer")
    inputs, head = (set(system.coordinates(t).tolist()) for t in (0, system.horizon - 1))
    assert len(inputs & head) == 2 * system.problem.backbone.hidden_size  # the two label words
    delta = point(system)
    logits = system.rollout(system.split(delta)).states[-1]
    torch.testing.assert_close(logits, system.problem.logits(delta, system.batch), rtol=0, atol=1e-12)


def test_a_decoder_without_its_mask_is_another_network():
    """The mutant: a decoder block called alone and without a mask attends in both directions."""
    system = layered("lora", "gpt2", task=toy_task(length=5))
    assert bool((system.batch.mask == 1).all())  # no padding: the mask is the causal one alone
    delta = point(system)
    expected = system.problem.logits(delta, system.batch)
    open_mask = torch.zeros_like(system._prompted.attention_mask)
    system._prompted = replace(system._prompted, attention_mask=open_mask)
    wrong = system.rollout(system.split(delta)).states[-1]
    assert (wrong - expected).abs().max() > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_split_and_join_are_adjoint_and_inverse(case):
    system = known(case, "bert")
    delta = point(system)
    controls = system.split(delta)
    assert [len(u) for u in controls] == [len(u) for u in system.zero_controls()]
    torch.testing.assert_close(system.value_of(controls), delta, rtol=0, atol=1e-15)
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(u.shape, generator=generator, dtype=u.dtype) for u in controls]
    inner = sum(float(u @ w) for u, w in zip(controls, parts, strict=True))
    assert inner == pytest.approx(float(delta @ system.join(parts)), abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_copies_of_a_coordinate_must_agree(case):
    system = known(case, "bert")
    shared = [t for t in range(system.horizon) if system.shares(t)]
    assert bool(shared) == bool((system.copies > 1).any())
    if not shared:
        return
    controls, t = system.split(point(system)), shared[0]
    controls[t] = controls[t] + 1
    with pytest.raises(ValueError, match="copies of one coordinate are up to"):
        system.value_of(controls)


def test_where_a_delta_acts():
    shared = ["subspace", "layerwise-subspace", "prefix length=2 hidden=3", "unilora", "compacter"]
    assert all((known(case, "bert").copies > 1).any() for case in shared)
    apart = ["full", "lora", "prompt", "prefix", "bitfit", "diff-pruning", "adapter", "ia3", "combined"]
    assert all((known(case, "bert").copies <= 1).all() for case in apart)
    assert [len(known("prompt", "bert").coordinates(t)) for t in range(4)] == [64, 0, 0, 0]
    assert [len(known("prefix length=2", "bert").coordinates(t)) for t in range(4)] == [0, 0, 66, 0]
    # BERT's biases: the embedding's norm and the blocks; GPT-2's: the blocks and the last norm
    assert [len(known("bitfit", "bert").coordinates(t)) for t in range(4)] == [16, 144, 144, 0]
    assert [len(known("bitfit", "gpt2").coordinates(t)) for t in range(4)] == [0, 176, 176, 16]
    assert known("lora", "bert").names == ("embedding", "block 0", "block 1", "head")


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_units_that_are_off_are_found_all_the_same(activation):
    backbone = tiny("bert", dtype=torch.float64)
    delta = make_delta("adapter", backbone, bottleneck=8, activation=activation)
    system = LayeredSystem(ClassificationProblem(backbone, toy_task(), delta, check=False), [0])
    assert bool((system.copies == 1).all())


@pytest.mark.parametrize("case", ["lora", "unilora"])
def test_energy_counts_a_coordinate_once(case):
    system = layered(case, "bert", energy_weight=0.7)
    delta = point(system)
    trajectory = system.rollout(system.split(delta))
    loss = system.problem.loss(delta, system.batch, system.labels)
    assert float(trajectory.cost - loss) == pytest.approx(0.35 * float(delta @ delta), rel=1e-12)


def test_passes_of_a_rollout_are_one_an_example():
    system = known("lora", "bert")
    before = system.problem.passes
    system.rollout(system.zero_controls())
    assert system.problem.passes - before == pytest.approx(5)


def test_linearization_matches_differences():
    system = known("prefix", "gpt2")
    controls = system.split(point(system))
    states = system.rollout(controls).states
    h = 1e-5
    for t, (x, u) in enumerate(zip(states, controls, strict=False)):
        line = system.linearize(t, x, u)
        generator = torch.Generator().manual_seed(t)
        dx, du = (torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in (x, u))
        moved = (system.step(t, x + h * dx, u + h * du) - system.step(t, x - h * dx, u - h * du)) / (2 * h)
        torch.testing.assert_close(line.A.apply(dx) + line.B.apply(du), moved, rtol=0, atol=1e-6)
        w = torch.randn(moved.shape, generator=generator, dtype=moved.dtype)
        pulled = (line.A.adjoint(w) * dx).sum() + (line.B.adjoint(w) * du).sum()
        assert float(pulled) == pytest.approx(float((w * moved).sum()), abs=1e-5)


def test_a_coordinate_that_is_missed_is_noticed(monkeypatch):
    found = LayeredSystem._support
    monkeypatch.setattr(LayeredSystem, "_support", lambda self, t, few: found(self, t, few)[1:])
    with pytest.raises(ValueError, match="cut at the layers, the logits are"):
        layered("lora", "bert")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": []}, r"indices=\[\]: give at least one of 0..23"),
        ({"indices": [24]}, r"indices=\[24\]"),
        ({"indices": [-1]}, r"indices=\[-1\]"),
        ({"energy_weight": -1.0}, r"energy_weight=-1.0: must be at least 0"),
        ({"energy_weight": float("nan")}, r"energy_weight=nan"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        LayeredSystem(toy_problem("lora", r=1), **arguments)


def test_other_splits():
    problem = toy_problem("lora", r=1)
    system = LayeredSystem(problem, split="test")
    assert len(system.batch) == len(problem.test)
    assert torch.equal(system.labels, problem.test.labels)
