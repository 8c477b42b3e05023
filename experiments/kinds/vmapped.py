"""Time a step of several runs in subspaces of their own: in turn, and by one vmap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.environment import Environment
from experiments.kinds.frozen import SHORT
from experiments.trial import Trial

EXAMPLE = Trial(
    "vmapped",
    "",
    "",
    "subspace:8",
    settings={**SHORT, "batch_size": 2, "length": 4, "together": 2, "repetitions": 1},
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return the median seconds of both, and how far their gradients differ."""
    import torch

    from experiments.measuring import interleaved

    settings = trial.settings
    count, size, length = (settings[key] for key in ("together", "batch_size", "length"))
    problems = [place.problem(replace(trial, seed=seed)) for seed in range(count)]
    first = problems[0]
    deltas = [
        0.1 * torch.randn(p.delta.size, generator=torch.Generator().manual_seed(i))
        for i, p in enumerate(problems)
    ]
    texts = [" ".join([f"word {i}"] * length) for i in range(count)]
    batches = [first.backbone.encode([text] * size, max_length=length) for text in texts]
    labels = torch.arange(size) % first.task.num_classes
    step = _vmapped(problems, batches, labels)

    def in_turn() -> Any:
        triples = zip(problems, deltas, batches, strict=True)
        return torch.stack([p.loss_and_gradient(x, batch, labels)[2] for p, x, batch in triples])

    turns = {"in turn": in_turn, "vmap": lambda: step(deltas)}
    medians = interleaved(turns, settings["repetitions"])
    expected, found = (turn() for turn in turns.values())
    first.restore()
    error = (found - expected).norm() / expected.norm()
    return {**medians, "gradient_error": float(error), "threads": torch.get_num_threads()}


def _vmapped(problems: list[Any], batches: list[Any], labels: Any) -> Any:
    """Return (δ_1, ..., δ_k) ↦ their k gradients, by one vmap over stacked parameters and batches."""
    import torch

    spaces, first = [p.delta for p in problems], problems[0]
    moved = spaces[0].moved
    batch = type(batches[0])
    names = [name for name, value in vars(batches[0]).items() if value is not None]
    inputs = {name: torch.stack([getattr(one, name) for one in batches]) for name in names}

    def loss(parameters: dict[str, Any], tensors: dict[str, Any]) -> Any:
        texts = batch(**tensors)
        logits = first.read(first.backbone.hidden_states(texts, parameters), texts)
        return torch.nn.functional.cross_entropy(logits, labels)

    gradient = torch.func.vmap(torch.func.grad(loss))
    theta0 = torch.cat([first.backbone.model.get_parameter(name).flatten() for name in moved.names])
    theta = torch.empty(len(spaces), moved.size)

    def step(deltas: list[Any]) -> Any:
        for space, delta, row in zip(spaces, deltas, theta, strict=True):
            space.projection.apply(delta, out=row, base=theta0)
        stacked = {
            name: theta[:, start:stop].reshape(len(theta), *shape)
            for name, start, stop, shape in moved.segments
        }
        out = gradient(stacked, inputs)
        flat = torch.cat([out[name].flatten(1) for name in stacked], 1)
        return torch.stack([space.projection.adjoint(g) for space, g in zip(spaces, flat, strict=True)])

    return step
