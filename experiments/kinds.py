"""What each kind of trial does; every one returns plain numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.trial import Trial

if TYPE_CHECKING:
    from deltatheory.linearization.tangent import TangentRows

BACKBONES = Path(__file__).parent / "backbones"
# Sizes of the sketches of JᵀJ and of the gradient that a kernel trial keeps, for angles between tasks.
_TANGENT, _GRADIENT = 48, 256
_SKETCH = 2048
_CHUNK = 32  # examples of a batch of the gradient
_SUFFIX = " Answer:"  # between the source of a generation task and its target
_D90 = {"dimension": "both", "prediction": "predict", "measurement": "measure"}  # what each kind asks for


@dataclass(frozen=True)
class Environment:
    """Where trials run; it is not part of what they are.

    Attributes:
        data: folder of the tasks; `None` where only embedded ones are run.
        device: "cpu" or "cuda".
        threads: of torch, in each process.
    """

    data: Path | None = None
    device: str = "cpu"
    threads: int = 1

    def start(self) -> None:
        """Prepare a process."""
        import torch

        torch.set_num_threads(self.threads)

    def backbone(self, name: str) -> Any:
        """Load a backbone once in a process: one of this folder, or what `load_backbone` takes.

        Raises:
            FileNotFoundError: where this folder has its card alone, without its weights.
        """
        folder = BACKBONES / name
        if folder.is_dir() and not (folder / "model.safetensors").exists():
            card = folder / "README.md"
            raise FileNotFoundError(f"models={name!r}: not here; the command in {card} makes it.")
        return _backbone(str(folder) if folder.is_dir() else name, self.device)

    def task(self, trial: Trial) -> Any:
        """Load the task of a trial, cut to the trial's numbers of examples by a stratified draw."""
        path = trial.task
        if "/" in path:
            if self.data is None:
                raise ValueError(f"task={trial.task!r}: name the folder it lies in (--data).")
            folder, name = trial.task.split("/")
            path = str(self.data / folder / "tasks" / f"{name}.jsonl.gz")
        numbers = {key: trial.settings.get(key) for key in ("train", "dev", "test")}
        return _task(path, *numbers.values())

    def problem(self, trial: Trial, delta: str = "", **options: Any) -> Any:
        """Bind backbone, task and delta of a trial."""
        from deltatheory.deltas import DELTAS, make_delta, split_size

        name, size = split_size(delta or trial.delta)
        arguments = {**size, **(options if delta else trial.options)}
        backbone = self.backbone(trial.model)
        if "seed" in DELTAS[name].__init__.__annotations__:
            arguments["seed"] = trial.seed
        return self.bound(trial, make_delta(name, backbone, **arguments))

    def bound(self, trial: Trial, delta: Any, task: Any = None) -> Any:
        """Bind a delta to the task of a trial, or to another one."""
        from deltatheory.problems import ClassificationProblem, GenerationProblem

        task, length = task or self.task(trial), trial.settings["max_length"]
        if task.kind == "generation":
            answers = {"suffix": _SUFFIX, "max_new_tokens": trial.settings["max_new_tokens"]}
            return GenerationProblem(delta.backbone, task, delta, max_length=length, check=False, **answers)
        head = _head(trial.settings["head"], delta.backbone, task, min(length, delta.backbone.max_length))
        return ClassificationProblem(delta.backbone, task, delta, head, max_length=length, check=False)


@functools.lru_cache(maxsize=2)
def _backbone(name: str, device: str) -> Any:
    from deltatheory.backbones import load_backbone

    return load_backbone(name, device=device)


@functools.lru_cache(maxsize=64)
def _task(path: str, train: int | None, dev: int | None, test: int | None) -> Any:
    from deltatheory.tasks import load_task

    task = load_task(path)
    least = {"train": min(train or len(task.train), len(task.train))}
    least["test"] = min(test or len(task.test), len(task.test))
    task = task.limited(least["train"], least["test"], 0)
    return replace(task, dev=task.dev.subset(range(min(dev or len(task.dev), len(task.dev)))))


_heads: dict[tuple, tuple[Any, Any, Any]] = {}  # its values keep alive what the keys number


def _head(kind: str, backbone: Any, task: Any, max_length: int) -> Any:
    from deltatheory.problems.heads import make_head

    key = kind, id(backbone), id(task), max_length
    if key not in _heads:
        head = make_head(kind, backbone, task, max_length=max_length)
        _heads[key] = head, backbone, task
    return _heads[key][0]


def _training(trial: Trial, **changed: Any) -> Any:
    from deltatheory.training.trainer import Training

    keys = ("steps", "batch_size", "learning_rate", "evaluate_every")
    given = {key: trial.settings[key] for key in keys if key in trial.settings}
    return Training(**{"seed": trial.seed, **given, **changed})


def _row(problem: Any, outcome: Any) -> dict[str, Any]:
    """Return what a training run came to, with the score of its δ on training examples."""
    metric = problem.metric
    fitted = problem.evaluate(outcome.delta, problem.train) if outcome.test else {}
    problem.restore()
    return {
        "status": outcome.status,
        "test": outcome.test and outcome.test[metric],
        "test_loss": outcome.test and outcome.test["loss"],
        "train": fitted.get(metric),
        "train_loss": fitted.get("loss"),
        "dev": [[row["step"], round(row[metric], 4), round(row["loss"], 4)] for row in outcome.dev],
        "losses": [round(loss, 4) for loss in outcome.losses if math.isfinite(loss)],
        "parameters": outcome.tuned_parameters,
        "optimizer_bytes": outcome.optimizer_state_bytes,
        "seconds_per_step": outcome.seconds_per_step,
        "movement": outcome.movement if math.isfinite(outcome.movement) else None,
        "passes": outcome.passes,
        "seconds": outcome.seconds,
    }


def frozen(trial: Trial, place: Environment) -> dict[str, Any]:
    """Evaluate the frozen backbone."""
    problem = place.problem(trial, "bitfit")
    task, splits = problem.task, {"test": problem.test, "dev": problem.dev}
    scores = {name: problem.evaluate(problem.delta.initial(), part) for name, part in splits.items()}
    found = {name: score[problem.metric] for name, score in scores.items()}
    if task.kind == "classification":
        majority = max(np.bincount(task.test.labels)) / len(task.test)
        found |= {"majority": float(majority), "classes": task.num_classes}
    return found | {"examples_sha256": task.provenance.get("examples_sha256")}


def train(trial: Trial, place: Environment) -> dict[str, Any]:
    """Train one delta."""
    from deltatheory.training import trainer as training

    problem = place.problem(trial)
    return _row(problem, training.train(problem, _training(trial)))


def sequence(trial: Trial, place: Environment) -> dict[str, Any]:
    """Train the parts of a combination one after the other, each for its share of the steps."""
    from deltatheory.training import trainer as training

    combined = place.problem(trial).delta
    parts, fixed, passes, seconds = len(combined.deltas), [], 0.0, 0.0
    steps = trial.settings["steps"] // parts
    rates = trial.settings["learning_rates"]
    for i, rate in enumerate(rates):
        problem = place.bound(trial, combined.stage(i, fixed))
        outcome = training.train(problem, _training(trial, steps=steps, learning_rate=rate))
        passes, seconds = passes + outcome.passes, seconds + outcome.seconds
        if outcome.test is None:
            break
        fixed.append(outcome.delta)
    return _row(problem, outcome) | {"passes": passes, "seconds": seconds}


def transfer(trial: Trial, place: Environment) -> dict[str, Any]:
    """Train δ on one task, and evaluate it on others with their own heads."""
    from deltatheory.training import trainer as training

    problem = place.problem(trial)
    outcome = training.train(problem, _training(trial))
    row = _row(problem, outcome)
    scores = {}
    for name in trial.settings["targets"] if outcome.test else ():
        target = place.task(Trial(trial.kind, trial.model, name, settings=trial.settings))
        other = place.bound(trial, problem.delta, target)
        scores[name] = other.evaluate(outcome.delta, other.test)["accuracy"]
        other.restore()
    return row | {"targets": scores}


def dimension(trial: Trial, place: Environment) -> dict[str, Any]:
    """Predict d90 and measure it, or one of the two; full fine-tuning has set the baseline."""
    from deltatheory.dimension import Criterion, DimensionSettings, intrinsic_dimension
    from deltatheory.problems import Setup

    settings = trial.settings
    about = {key: settings[key] for key in ("head", "max_length")}
    result = intrinsic_dimension(
        Setup(place.backbone(trial.model), place.task(trial), seed=trial.seed, **about),
        method=_D90[trial.kind],
        criterion=Criterion(baseline=settings["baseline"]),
        settings=DimensionSettings(**{key: settings[key] for key in ("steps", "batch_size", "runs")}),
    )
    whole = result.to_dict()
    folds: dict[int, list[float]] = {}
    for point in result.curve:
        if point.method == "predict" and point.test_metric is not None:
            folds.setdefault(point.d, []).append(float(f"{point.test_metric:.5g}"))
    kept = {key: value for key, value in whole.items() if key not in ("settings", "provenance")}
    kept["curve"] = [vars(point) for point in result.curve if point.method != "predict"]
    return kept | {"linearized": {"d": list(folds), "scores": list(folds.values())}}  # one a fold


def kernel(trial: Trial, place: Environment) -> dict[str, Any]:
    """Predict from the kernels of several deltas at δ = 0, in one pass: score, speed, rank; and sketch one.

    The kernels are those of a contrast of the logits. The speed is that of gradient flow on the squared loss:
    with eigenpairs (λ_i, u_i) of K and the residuals r_c it is the least t with
    Σ (u_i·r_c)² exp(-2λ_i t) ≤ Σ (u_i·r_c)²/10, in units of n/tr K.
    """
    from deltatheory.deltas import make_delta, split_size
    from deltatheory.linearization.tangent import joint_tangent_rows

    backbone, labels = place.backbone(trial.model), trial.settings["deltas"]
    deltas = {}
    for label in labels:
        name, size = split_size(label)
        deltas[label] = make_delta(name, backbone, **{**size, **trial.settings["options"].get(name, {})})
    exact = [label for label in labels if deltas[label].exact_zero]
    features, passes, seconds = {}, 0.0, 0.0
    for group in (exact, *([label] for label in labels if label not in exact)):
        problem = place.bound(trial, make_delta("combined", backbone, deltas=[deltas[x] for x in group]))
        sizes = [deltas[label].size for label in group]
        found = joint_tangent_rows(
            problem, sizes, train=len(problem.train), test=0, outputs="contrast", sketch=_SKETCH
        )
        features |= zip(group, found, strict=True)
        passes, seconds = passes + problem.passes, seconds + found[0].seconds
    start, sketched = features[labels[0]].start.double(), trial.settings["sketched"]
    problem = place.bound(trial, deltas[sketched])
    sketches = _sketches(features[sketched], _gradient(problem))
    return {
        "frozen": float(start.solved(start.logits).double().mean()),
        "predicted": {label: _predicted(features[label]) for label in labels},
        "passes": passes + problem.passes,
        "seconds": seconds,
        **sketches,
    }


def _predicted(features: TangentRows) -> dict[str, Any]:
    from deltatheory.linearization.ridge import cross_fitted_logits

    gram, start = features.kernel().cpu(), features.start.double()
    solved = start.solved(cross_fitted_logits(gram, start)).double()
    values, vectors = np.linalg.eigh(gram.numpy())
    values = np.clip(values, 0, None)
    mean = float(values.mean()) or 1.0
    return {
        "score": float(solved.mean(1).max()),
        "trace": mean,
        "effective_rank": float(values.sum() ** 2 / max((values**2).sum(), 1e-30)),
        "time": _time(values / mean, ((vectors.T @ start.residual().numpy()) ** 2).sum(1)),
    }


def _gradient(problem: Any) -> Any:
    """Return -∇L at δ = 0 over the training examples."""
    total = 0.0
    for first in range(0, len(problem.train), _CHUNK):
        batch, labels = problem.batch(problem.train, range(first, min(first + _CHUNK, len(problem.train))))
        total = total - len(labels) * problem.loss_and_gradient(problem.delta.initial(), batch, labels)[2]
    problem.restore()
    return total


def _sketches(features: TangentRows, gradient: Any) -> dict[str, list[float]]:
    """Return sketches of JᵀJ and of the gradient, of norm 1: their inner products are those of two tasks."""
    rows = features.rows[:, 0].double().cpu().numpy()
    lot = np.random.default_rng(0)
    tangent = rows @ lot.standard_normal((rows.shape[1], _TANGENT))
    fisher = tangent.T @ tangent
    if features.sketch:
        gradient = features.sketch.adjoint(gradient)
    gradient = gradient.double().cpu().numpy() @ lot.standard_normal((rows.shape[1], _GRADIENT))
    upper = np.triu_indices(_TANGENT)
    weights = np.where(upper[0] == upper[1], 1.0, math.sqrt(2.0))
    return {
        "tangent": _rounded(weights * fisher[upper] / np.linalg.norm(fisher)),
        "gradient": _rounded(gradient / np.linalg.norm(gradient)),
    }


def _time(values: np.ndarray, weights: np.ndarray) -> float | None:
    """Return when a tenth of Σ weights is left; `None` where the kernel cannot move so much of it."""
    from scipy.optimize import brentq

    def left(log_time: float) -> float:
        return float(weights @ np.exp(-2 * values * math.exp(log_time)) / weights.sum()) - 0.1

    return None if left(20.0) > 0 else math.exp(brentq(left, -20.0, 20.0))


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{x:.4g}") for x in values]


def subspaces(trial: Trial, place: Environment) -> dict[str, Any]:
    """Fit subspaces to deltas trained on some tasks, and train within them on others.

    Of prompts: that of intrinsic prompt tuning, beside a random one of the same dimension. Of methods:
    the unified subspace, in which each is trained alone, and evaluated at what another one found.
    """
    from deltatheory.deltas import make_delta, split_size
    from deltatheory.deltas.intrinsic_prompt import IntrinsicPromptTuning, fit_prompt_subspace
    from deltatheory.deltas.unified_subspace import UnifiedSubspace, fit_unified_subspace
    from deltatheory.training import trainer as training

    settings, backbone = trial.settings, place.backbone(trial.model)
    spent = {"passes": 0.0, "seconds": 0.0}

    def bound(task: str, delta: Any) -> Any:
        return place.bound(trial, delta, place.task(replace(trial, task=task)))

    def best(task: str, delta: Any, rates: Sequence[float]) -> Any:
        """Return the run with the best dev accuracy over the rates."""
        runs = []
        for rate in rates:
            problem = bound(task, delta)
            runs.append(training.train(problem, _training(trial, learning_rate=rate)))
            spent["passes"] += runs[-1].passes
            spent["seconds"] += runs[-1].seconds
        return max(runs, key=lambda run: max((row["accuracy"] for row in run.dev), default=0.0))

    def accuracy(run: Any) -> float:
        return run.test["accuracy"] if run.test else 0.0

    methods: dict[str, tuple[str, float]] = settings["methods"]
    parts = {}
    for label, (text, _) in methods.items():
        name, size = split_size(text)
        parts[label] = make_delta(name, backbone, **{**size, **settings["options"].get(name, {})})
    found = {x: [best(t, parts[x], [methods[x][1]]).delta for t in settings["sources"]] for x in parts}
    prompt = parts[settings["prompt"]]
    prompts = _stacked([prompt.prompt(delta).detach() for delta in found[settings["prompt"]]])
    fitted = IntrinsicPromptTuning(backbone, subspace=fit_prompt_subspace(prompts, settings["d"]))
    lot = IntrinsicPromptTuning(backbone, d=settings["d"], length=prompt.length)
    unified = [label for label in parts if label != settings["prompt"]]
    bases = fit_unified_subspace([_stacked(found[label]) for label in unified], settings["d"])
    shared = {
        label: UnifiedSubspace(backbone, deltas=[parts[label]], d=settings["d"], bases=[basis])
        for label, basis in zip(unified, bases, strict=True)
    }
    targets = {}
    for task in settings["targets"]:
        own = {label: accuracy(best(task, parts[label], [methods[label][1]])) for label in parts}
        within = {
            "fitted": accuracy(best(task, fitted, settings["rates"])),
            "random": accuracy(best(task, lot, settings["rates"])),
        }
        runs = {label: best(task, shared[label], settings["unified_rates"]) for label in unified}
        moved = {}
        for label in unified:
            for other in unified:
                problem = bound(task, shared[other])
                moved[f"{label} in {other}"] = problem.evaluate(runs[label].delta, problem.test)["accuracy"]
        targets[task] = {"own": own, "prompt": within, "unified": moved}
    return {"targets": targets, **spent}


def _stacked(rows: Sequence[Any]) -> Any:
    """Stack tensors; torch is imported when a trial runs, not before."""
    import torch

    return torch.stack(list(rows))


KINDS: dict[str, Callable[[Trial, Environment], dict[str, Any]]] = {
    f.__name__: f for f in (frozen, train, sequence, transfer, kernel, subspaces)
} | dict.fromkeys(_D90, dimension)
