from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_problems import toy_problem, toy_task

from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.linearization.subspace_training import kernel_root, random_subspaces, train_linearized
from deltatheory.linearization.tangent import TangentRows, tangent_rows
from deltatheory.problems import ClassificationProblem
from deltatheory.training.trainer import Training, train


class LinearProblem(ClassificationProblem):
    """f(δ) = f(0) + J δ for the first examples of each split, through the trainer's own entrances."""

    def linearize(self, features: TangentRows) -> None:
        self.features = features
        self.index = {text: i for i, text in enumerate(self.train.examples.texts)}
        self.test_index = {text: i + features.train for i, text in enumerate(self.test.examples.texts)}

    def batch(self, split, indices):
        batch, labels = super().batch(split, indices)
        self.at = [i + (split is self.test) * self.features.train for i in indices]
        return batch, labels

    def logits(self, delta, batch):
        change = self.features.rows[self.at] @ delta
        return self.features.start.logits[self.at] + torch.cat([torch.zeros_like(change[:, :1]), change], 1)

    def predict(self, delta, split, chunk=64):
        batch, _ = self.batch(split, range(len(split)))
        return self.logits(delta, batch)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_the_trainer_where_the_problem_is_linear(classes):
    """Texts of one length, so that both draw the same batches."""
    task = toy_task(classes, length=4)
    made = toy_problem("lora", task=task, dtype=torch.float64, r=1)
    features = tangent_rows(made, train=24, test=12)
    problem = LinearProblem(made.backbone, task, made.delta, made.head, check=False)
    problem.linearize(features)
    training = Training(steps=20, batch_size=8, learning_rate=0.03, seed=5)
    expected = train(problem, training)
    run = train_linearized(features.start, features.rows[None], training, train=[range(24)])
    assert run.delta.shape == (1, 1, made.delta.size)
    torch.testing.assert_close(run.delta[0, 0], expected.delta, rtol=0, atol=1e-5)
    assert float(run.train_loss[0, 0]) == pytest.approx(expected.train_loss, abs=1e-6)
    assert expected.test is not None
    loss = torch.nn.functional.cross_entropy(run.logits[0, 0, 24:], features.start.labels[24:])
    assert float(loss) == pytest.approx(expected.test["loss"], abs=1e-5)
    assert expected.movement > 0.1


def test_runs_are_side_by_side_as_alone():
    """Each with its own examples, order of the data and subspace, at every rate."""
    made = toy_problem("lora", dtype=torch.float64, r=1, task=toy_task(3))
    features = tangent_rows(made, train=12, test=4)
    draws = random_subspaces(kernel_root(features), features.size, d=6, seeds=3, seed=0)
    assert draws.shape == (3, 16, 2, 6)
    training, rates = Training(steps=10, batch_size=4, learning_rate=0.1, average=0.5, seed=2), (0.1, 0.3)
    chosen = [range(12), range(8), [0, 3, 5, 7, 9]]
    together = train_linearized(features.start, draws, training, train=chosen, rates=rates)
    for r, rate in enumerate(rates):
        for i, examples in enumerate(chosen):
            own = replace(training, seed=2 + i, learning_rate=rate)
            alone = train_linearized(features.start, draws[i : i + 1], own, train=[examples])
            torch.testing.assert_close(together.delta[r, i], alone.delta[0, 0])
            torch.testing.assert_close(together.logits[r, i], alone.logits[0, 0])
            torch.testing.assert_close(together.train_loss[r, i], alone.train_loss[0, 0])
    assert (together.train_loss.std(1) > 0).all()


@pytest.mark.parametrize("columns", [4, 40])
def test_the_root_is_one_of_the_kernel(columns):
    rows = torch.randn(5, 2, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zeros = torch.zeros(5, 3, dtype=rows.dtype)
    start = LinearizationStart(zeros, torch.zeros(5, dtype=torch.long), zeros)
    features = TangentRows(rows, start, 3, columns, None, 0.0, 0.0)
    A = kernel_root(features)
    assert A.shape == (5, 2, min(columns, 10))
    torch.testing.assert_close(A.flatten(0, 1) @ A.flatten(0, 1).T, features.kernel())
    broken = replace(features, rows=torch.cat([rows, rows], -1))  # rank below its size: no NaN
    assert kernel_root(broken).isfinite().all()


def test_subspaces_have_the_kernel_as_covariance():
    """N columns are N draws of N(0, K/D): each entry of their covariance has a known standard error."""
    A = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size, d, seeds = 500, 100, 100
    draws = random_subspaces(A, size, d, seeds, seed=1).flatten(1, 2)
    assert draws.shape == (seeds, 4, d)
    columns = draws.transpose(1, 2).flatten(0, 1)
    K = A.flatten(0, 1) @ A.flatten(0, 1).T / size
    N = seeds * d
    error = (K.diag()[:, None] * K.diag()[None] + K**2).div(N).sqrt()
    # 10 distinct entries within 4.5 standard errors: fails by chance with probability 7e-5 (a fixed seed).
    assert ((columns.T @ columns / N - K).abs() < 4.5 * error).all()
    assert (columns.mean(0).abs() < 4.5 * (K.diag() / N).sqrt()).all()
    # and seeds are independent: the first column of one says nothing of the next
    first = draws[:, :, 0]
    lag = (first[1:] * first[:-1]).mean(0) / K.diag()
    assert (lag.abs() < 4.5 / (seeds - 1) ** 0.5).all()


def test_subspaces_are_a_function_of_the_seed():
    A = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    draws = [random_subspaces(A, 10, 4, 2, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
