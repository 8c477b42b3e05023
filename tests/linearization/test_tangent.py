from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_problems import origin, toy_problem, toy_task

from deltatheory import autodiff
from deltatheory.linearization import full_rows
from deltatheory.linearization.full_rows import FullRows
from deltatheory.linearization.tangent import TangentRows, joint_tangent_rows, tangent_rows
from deltatheory.projections import Projection, make_projection

CLASSES, TRAIN, TEST = 3, 5, 3
SKETCH = 256


def by_autodiff(problem) -> torch.Tensor:
    """J by one batched reverse pass over padded texts: another route to the same rows."""
    rows = []
    for split, count in ((problem.train, TRAIN), (problem.test, TEST)):
        batch, _ = problem.batch(split, range(count))

        def differences(x, batch=batch):
            z = problem.logits(x, batch)
            return z[:, 1:] - z[:, :1]

        blocks = list(autodiff.jacobian_rows(differences, problem.delta.initial()))
        rows.append(torch.cat(blocks).view(count, CLASSES - 1, -1))
    return torch.cat(rows)


@pytest.fixture(scope="module")
def problem():
    return toy_problem("full", dtype=torch.float64, task=toy_task(CLASSES))


@pytest.fixture(scope="module")
def exact(problem) -> TangentRows:
    return tangent_rows(problem, train=TRAIN, test=TEST, sketch=problem.delta.size)


@pytest.fixture(scope="module")
def sketches(problem) -> list[TangentRows]:
    return [tangent_rows(problem, train=TRAIN, test=TEST, sketch=SKETCH, seed=s) for s in range(12)]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize(
    ("delta", "options"),
    [("full", {}), ("subspace", {"d": 20}), ("layerwise-subspace", {"d": 20}), ("lora", {"r": 2})],
)
def test_rows_are_the_jacobian(delta, options, family):
    problem = toy_problem(delta, family=family, dtype=torch.float64, task=toy_task(CLASSES), **options)
    before = origin(problem.backbone)
    features = tangent_rows(problem, train=TRAIN, test=TEST, sketch=problem.delta.size)
    torch.testing.assert_close(features.rows, by_autodiff(problem), rtol=0, atol=1e-8)
    batch, labels = problem.batch(problem.train, range(TRAIN))
    zero = problem.delta.initial()
    torch.testing.assert_close(features.start.logits[:TRAIN], problem.logits(zero, batch), rtol=0, atol=1e-10)
    assert torch.equal(features.start.labels[:TRAIN], labels)
    v = torch.randn(zero.shape, generator=torch.Generator().manual_seed(0), dtype=zero.dtype)
    v, h = v / v.norm(), 1e-5
    change = (problem.logits(h * v, batch) - problem.logits(-h * v, batch)) / (2 * h)
    change = change[:, 1:] - change[:, :1]
    torch.testing.assert_close(features.rows[:TRAIN] @ v, change, rtol=0, atol=1e-6)
    assert all(torch.equal(p, before[n]) for n, p in problem.backbone.model.named_parameters())


@pytest.mark.parametrize("family", ["bert", "gpt2", "opt", "t5"])
def test_rows_of_whole_parameters_are_those_of_single_backward_passes(family):
    problem = toy_problem("full", family=family, dtype=torch.float64, task=toy_task(CLASSES))
    assert FullRows.serves(problem)
    features = tangent_rows(problem, train=2, test=2, sketch=64)
    expected = tangent_rows(problem, train=2, test=2, sketch=64, at=problem.delta.zero())
    torch.testing.assert_close(features.rows, expected.rows, rtol=0, atol=1e-9)
    torch.testing.assert_close(features.start.logits, expected.start.logits, rtol=0, atol=1e-10)
    assert features.passes == expected.passes


def test_rows_of_whole_parameters_do_not_depend_on_the_passes(monkeypatch, problem, exact):
    monkeypatch.setattr(full_rows, "_TOKENS", 12)
    alone = tangent_rows(problem, train=TRAIN, test=TEST, sketch=problem.delta.size)
    torch.testing.assert_close(alone.rows, exact.rows, rtol=0, atol=1e-10)


def test_kernel_spectrum_and_rank(exact):
    rows = exact.rows.flatten(0, 1)
    torch.testing.assert_close(exact.kernel(), rows @ rows.T)
    K = exact.kernel()[: TRAIN * (CLASSES - 1), : TRAIN * (CLASSES - 1)]
    torch.testing.assert_close(exact.spectrum(), torch.linalg.eigvalsh(K).flip(0), rtol=0, atol=1e-6)
    assert exact.rank() == TRAIN * (CLASSES - 1)
    repeated = exact.rows.clone()
    repeated[1] = repeated[0]  # the same example twice
    assert replace(exact, rows=repeated).rank() == (TRAIN - 1) * (CLASSES - 1)
    assert exact.sketch is None


def relative(features: TangentRows, K: torch.Tensor) -> float:
    return float((features.kernel() - K).norm() / K.norm())


def test_the_sketch_is_unbiased(exact, sketches):
    K = exact.kernel()
    single = math.sqrt(sum(relative(f, K) ** 2 for f in sketches) / len(sketches))
    mean = torch.stack([f.kernel() for f in sketches]).mean(0)
    error = float((mean - K).norm() / K.norm())
    # 12 draws: an unbiased mean is off by single/√12; a bias of half an error would show.
    assert error < 2 * single / math.sqrt(len(sketches))
    assert {f.sketch.d for f in sketches if f.sketch} == {SKETCH}


def test_the_error_of_the_sketch_falls_with_its_root(problem, exact):
    K = exact.kernel()

    def error(size: int) -> float:
        draws = [tangent_rows(problem, train=TRAIN, test=TEST, sketch=size, seed=s) for s in range(6)]
        return math.sqrt(sum(relative(f, K) ** 2 for f in draws) / len(draws))

    ratio = error(16) / error(256)  # √16 = 4
    assert 2.2 < ratio < 7


@pytest.mark.parametrize("d", [1, 16, 64, SKETCH])
def test_restricted_is_j_times_the_smaller_projection(exact, sketches, d):
    for seed, features in enumerate(sketches[:3]):
        rows, projection = features.restricted(d)
        direct = make_projection("hashed", d, exact.size, seed=seed)
        P = torch.stack([direct.apply(e) for e in torch.eye(d, dtype=torch.float64)], 1)
        torch.testing.assert_close(rows, exact.rows @ P, rtol=0, atol=1e-10)
        assert repr(projection) == repr(direct)


def test_restricted_needs_a_nested_sketch_and_a_divisor(exact, sketches):
    for d in (0, 100):
        with pytest.raises(ValueError, match=f"d={d}: must divide"):
            sketches[0].restricted(d)
    with pytest.raises(ValueError, match="nested"):
        exact.restricted(16)
    plain: Projection = make_projection("kronecker", SKETCH, exact.size, seed=0)
    with pytest.raises(ValueError, match="nested"):
        replace(sketches[0], sketch=plain).restricted(16)


def test_passes_are_counted(problem, exact):
    outputs = CLASSES - 1
    assert exact.passes == (TRAIN + TEST) * (1 + 2 * outputs)
    before, seen = problem.passes, []
    tangent_rows(problem, train=2, test=1, outputs="margin", on_example=lambda *x: seen.append(x))
    assert problem.passes - before == 3 * (1 + 2)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_margins_give_the_same_loss_and_the_same_solved_examples(problem, exact):
    features = tangent_rows(problem, train=TRAIN, test=TEST, outputs="margin", sketch=problem.delta.size)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = cross_entropy(exact.start.logits, exact.start.labels, reduction="none")
    losses = cross_entropy(features.start.logits, features.start.labels, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-10)
    assert torch.equal(features.start.solved(features.start.logits), exact.start.solved(exact.start.logits))
    # dm = Σ_c ∂m/∂z_c dz_c with ∂m/∂z_y = 1 and ∂m/∂z_c = -softmax over the competitors
    for i in range(TRAIN + TEST):
        y, full = int(exact.start.labels[i]), torch.cat([torch.zeros_like(exact.rows[i, :1]), exact.rows[i]])
        others = exact.start.logits[i].clone()
        others[y] = -math.inf
        row = full[y] - others.softmax(0) @ full
        torch.testing.assert_close(features.rows[i, 0], row, rtol=0, atol=1e-8)


def test_a_contrast_is_one_direction_of_all_logits(problem, exact):
    features, other = (
        tangent_rows(problem, train=TRAIN, test=0, outputs="contrast", sketch=problem.delta.size, seed=s)
        for s in (0, 1)
    )
    assert features.passes == TRAIN * (1 + 2)
    assert torch.equal(features.start.labels, exact.start.labels[:TRAIN])
    torch.testing.assert_close(features.start.logits, exact.start.logits[:TRAIN], rtol=0, atol=1e-8)
    full = exact.rows[:TRAIN].flatten(0, 1).T.reshape(problem.delta.size, TRAIN, CLASSES - 1)
    wanted = features.rows[:, 0].T
    v, *_ = torch.linalg.lstsq(full.flatten(0, 1), wanted.flatten()[:, None])
    torch.testing.assert_close(full @ v[:, 0], wanted, rtol=0, atol=1e-8)
    v = torch.cat([-v.sum(0), v[:, 0]])  # of all logits: exact rows are differences to the first
    assert float(v.square().sum()) == pytest.approx(2)
    assert not torch.allclose(other.rows, features.rows, rtol=0.1)


def test_of_two_classes_a_contrast_has_the_kernel_of_the_margin_and_of_the_logits():
    problem = toy_problem("bitfit", task=toy_task(2, train=12), dtype=torch.float64)
    kernels = {
        outputs: tangent_rows(problem, train=12, test=0, outputs=outputs).kernel()
        for outputs in ("logits", "margin", "contrast")
    }
    torch.testing.assert_close(kernels["contrast"], kernels["logits"])
    sign = 2.0 * problem.train.labels - 1
    torch.testing.assert_close(kernels["margin"], sign[:, None] * kernels["logits"] * sign)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 1}, "train=1: must be at least 2"),
        ({"train": 99}, "at most 24"),
        ({"sketch": 0}, "sketch=0"),
        ({"test": 99}, "test=99: .* at most 12"),
    ],
)
def test_bad_sizes_are_refused(problem, arguments, message):
    with pytest.raises(ValueError, match=message):
        tangent_rows(problem, **{"train": 4, "test": 2} | arguments)


def test_parts_of_a_delta_share_their_passes_and_have_their_own_rows():
    problem = toy_problem("lora", r=2)
    whole = tangent_rows(problem, train=5, test=2, outputs="margin")
    sizes = [100, problem.delta.size - 100]
    before = problem.passes
    first, second = joint_tangent_rows(problem, sizes, train=5, test=2, outputs="margin")
    assert problem.passes - before == whole.passes == first.passes
    torch.testing.assert_close(torch.cat([first.rows, second.rows], -1), whole.rows)
    torch.testing.assert_close(first.kernel() + second.kernel(), whole.kernel())
    assert torch.equal(first.start.logits, whole.start.logits)
    with pytest.raises(ValueError, match=r"sizes=\[1, 2\]: must be at least 1 and add up to"):
        joint_tangent_rows(problem, [1, 2], train=5, test=2)
