"""The Gram matrix of per-example gradients by public libraries, each in the form that its documentation has.

    pip install --no-deps opacus curvlinops-for-pytorch dattri opt_einsum backpack-for-pytorch \
        einconv linear-operator einops unfoldNd

None of them is needed by `deltatheory`; a library that is not installed is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from deltatheory.backbones.batch import pool
from deltatheory.linearization.outputs import random_contrast
from deltatheory.problems import ClassificationProblem

_CHUNK = 8  # examples whose gradients are formed together
_MASK = "real tokens"  # key beside those of the model's inputs
_PROJECTED = 512  # numbers to which dattri projects a gradient; its matrix has that many rows of D


class _Contrast(nn.Module):
    """Texts ↦ the contrast of the logits, shape (n, 1), as a module of its own for the libraries."""

    def __init__(self, problem: ClassificationProblem) -> None:
        super().__init__()
        self.model, self.problem = problem.backbone.model, problem
        self.contrast = random_contrast(problem.task.num_classes, problem.seed)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        given = {key: x for key, x in inputs.items() if key != _MASK}
        states = self.model(**given).last_hidden_state
        pooled = pool(states, inputs[_MASK], self.problem.backbone.pooling)
        return self.contrast(self.problem.head(pooled)).view(-1, 1)


def libraries(problem: ClassificationProblem, names: list[str]) -> dict[str, Callable[[int], Tensor]]:
    """Return library ↦ (examples ↦ their Gram), of those that are installed.

    Args:
        problem: whose frozen backbone and head are taken.
        names: of the parameters that count.
    """
    known = {"opacus": _opacus, "curvlinops": _curvlinops, "dattri": _dattri}
    return {
        name: lambda n, form=form: form(problem, names, n) for name, form in known.items() if find_spec(name)
    }


def gram(rows: Tensor) -> Tensor:
    """Return R Rᵀ, in parts: one float32 sum over ten million products loses digits."""
    return torch.stack([(part @ part.T).double() for part in rows.split(1 << 16, 1)]).sum(0)


def _batches(problem: ClassificationProblem, n: int, size: int) -> Iterator[dict[str, Tensor]]:
    for first in range(0, n, size):
        batch, _ = problem.batch(problem.train, range(first, min(first + size, n)))
        yield {**batch.inputs(), _MASK: batch.mask}


def _alone(problem: ClassificationProblem, names: list[str]) -> tuple[_Contrast, list[nn.Parameter]]:
    """Return the network with these parameters alone to be tuned."""
    network, wanted = _Contrast(problem), {f"model.{name}" for name in names}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in wanted)
        parameter.grad = None
    return network, [p for name, p in network.named_parameters() if name in wanted]


def _opacus(problem: ClassificationProblem, names: list[str], n: int) -> Tensor:
    from opacus import GradSampleModule

    network, parameters = _alone(problem, names)
    wrapped = GradSampleModule(network, loss_reduction="sum", strict=False)
    for module in network.modules():  # opacus sees what is in training; dropout stays off
        module.training = not any(module.children()) and not isinstance(module, nn.Dropout)
    rows = []
    for inputs in _batches(problem, n, _CHUNK):
        wrapped(inputs).sum().backward()
        rows.append(torch.cat([p.grad_sample.flatten(1) for p in parameters], 1))  # type: ignore[attr-defined]
        wrapped.zero_grad()
    return gram(torch.cat(rows))


def _curvlinops(problem: ClassificationProblem, names: list[str], n: int) -> Tensor:
    from curvlinops import TransposedJacobianLinearOperator

    network, parameters = _alone(problem, names)
    data = [(inputs, torch.zeros(len(inputs[_MASK]), 1)) for inputs in _batches(problem, n, n)]
    transposed: Any = TransposedJacobianLinearOperator(
        network,
        parameters,
        data,
        check_deterministic=False,
        batch_size_fn=lambda inputs: len(inputs[_MASK]),
    )
    columns = transposed @ torch.eye(n)
    return gram(columns.T)


def _dattri(problem: ClassificationProblem, names: list[str], n: int) -> Tensor:
    from dattri.func.projection import random_project

    network, parameters = _alone(problem, names)
    rows = []
    for inputs in _batches(problem, n, 1):
        gradients = torch.autograd.grad(network(inputs).sum(), parameters)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    whole = torch.stack(rows)
    project = random_project(whole, n, _PROJECTED, 32, proj_type="rademacher", device="cpu")
    projected = project(whole)
    return gram(projected)
