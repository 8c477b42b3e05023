"""Intrinsic dimension: how many dimensions a task needs, predicted before training and measured by it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from deltatheory.backbones import Backbone, load_backbone
from deltatheory.deltas import Delta
from deltatheory.deltas.subspace import FullFineTuning, Subspace
from deltatheory.dimension.criterion import Criterion, DimensionEstimate
from deltatheory.dimension.measure import MeasuredDimension, measure
from deltatheory.dimension.predict import Prediction, predict
from deltatheory.dimension.result import CurvePoint, DimensionResult
from deltatheory.problems import ClassificationProblem
from deltatheory.problems.heads import Head, make_head
from deltatheory.projections import make_projection
from deltatheory.results import ResultLog, provenance
from deltatheory.tasks import Task, load_task
from deltatheory.training.trainer import Training

__all__ = [
    "Criterion",
    "CurvePoint",
    "DimensionEstimate",
    "DimensionResult",
    "intrinsic_dimension",
    "predict_dimension",
]

Method = Literal["predict", "measure", "both"]

_KERNEL_EXAMPLES = 448  # of the kernel: more barely move the prediction and cost as much again
_KERNEL_ROWS = 6 * _KERNEL_EXAMPLES  # of J, a backward pass each: over seven classes get fewer examples
_LEAST_TEST = 50  # with fewer, one example moves accuracy by more than the interval is wide


def intrinsic_dimension(
    model: str | Backbone = "minilm",
    task: str | Task = "stdlib-topics",
    *,
    method: Method = "both",
    projection: str = "hashed",
    head: str = "label-words",
    scope: str = "blocks",
    criterion: Criterion | None = None,
    steps: int = 120,
    batch_size: int = 32,
    train_examples: int | None = 512,
    test_examples: int | None = None,
    max_length: int = 64,
    runs: float = 6.0,
    precision: float = 0.25,
    burn_in: int = 0,
    seed: int = 0,
    device: str = "cpu",
    out: str | Path | None = None,
    progress: bool = False,
) -> DimensionResult:
    """Predict d90 from the tangent kernel, measure it by training in random subspaces, or both.

    d90 is the smallest d for which training δ in θ = θ₀ + Pδ, P: R^d → R^D random, reaches 90 % of the
    accuracy of full fine-tuning with the same step budget (Li et al. 2018; Aghajanyan et al. 2021).

    Args:
        model: a backbone, or what `load_backbone` takes.
        task: a classification task, or what `load_task` takes.
        method: "predict" (no training), "measure", or "both" (the prediction says where to start).
        projection: a key of `deltatheory.projections.PROJECTIONS`.
        head: a key of `deltatheory.problems.heads.HEADS`.
        scope: "blocks" or "all": which parameters θ are.
        criterion: what counts as solved; 0.9 of the model's own full fine-tuning by default.
        steps: optimizer steps of every run; part of the result.
        batch_size: examples a step.
        train_examples: training examples to use (a stratified draw; `None`: all there are).
        test_examples: test examples to use (`None`: all there are).
        max_length: longer texts are cut here, in tokens.
        runs: budget of the measured search in training runs of the full step budget, baseline and check of
            the learning rate included.
        precision: the search stops when the 90 % interval is within ± this.
        burn_in: steps of full fine-tuning before the network is linearized; 0 predicts before any training.
        seed: of subspaces, data order and draws.
        device: "cpu" or "cuda".
        out: folder for `trials.jsonl` (a run that was cut off goes on from there), `result.json` and
            `report.html`.
        progress: show progress bars.

    Raises:
        ValueError: for bad arguments; the message names the argument, the value and what is allowed.
        DerivativeError: if the backbone's derivatives fail the self-check.
    """
    if method not in ("predict", "measure", "both"):
        raise ValueError(f"method={method!r}: allowed are 'predict', 'measure' and 'both'.")
    criterion = criterion or Criterion()
    training = Training(steps=steps, batch_size=batch_size, seed=seed)
    make_projection(
        projection, 1, 1, seed=seed
    )  # an unknown name or a bad seed fails here, not after minutes
    task = load_task(task) if isinstance(task, str) else task
    backbone = load_backbone(model, device=device) if isinstance(model, str) else model
    task = _prepared(task, train_examples, test_examples, seed)
    max_length = min(max_length, backbone.max_length)
    frozen_head = make_head(head, backbone, task, seed=seed, max_length=max_length)
    show = _Progress(progress)

    def make(delta: Delta) -> ClassificationProblem:
        return ClassificationProblem(backbone, task, delta, frozen_head, max_length=max_length, check=False)

    def subspace(d: int, subspace_seed: int) -> Subspace:
        return Subspace(backbone, d=d, projection=projection, seed=subspace_seed, scope=scope)

    full = FullFineTuning(backbone, scope=scope)
    make(subspace(min(64, full.size), seed)).check()

    log = ResultLog(Path(out) / "trials.jsonl") if out else _Memory()
    identity = {
        "model": backbone.provenance,
        "task": {"name": task.name, **task.provenance},
        "head": head,
        "max_length": max_length,
    }
    predicted = measured = None
    if method != "measure":
        affordable = max(2, _KERNEL_ROWS // (task.num_classes - 1))
        examples = min(_KERNEL_EXAMPLES, affordable, len(task.train))
        config = {
            **identity,
            "prediction": {
                "outputs": "logits",
                "examples": examples,
                "scope": scope,
                "criterion": criterion.to_dict(),
                "burn_in": burn_in,
            },
            "training": training.to_dict(),
        }
        row = log.find(config)
        if row:
            predicted = Prediction.from_dict(row["result"])
        else:
            predicted = predict(
                make(full),
                lambda d, s: Subspace(backbone, d=d, seed=s, scope=scope),
                criterion,
                training,
                examples=examples,
                chance=task.chance,
                burn_in=burn_in,
                on_example=show.example,
            )
            log.append(config, predicted.to_dict())
        show.close()
    if method != "predict":
        measured = measure(
            make,
            full,
            subspace,
            criterion,
            training,
            log=log,
            identity=identity,
            guess=predicted.d90.value if predicted and predicted.d90.value else None,
            learning_rate=predicted.learning_rate if predicted else None,
            runs=runs,
            precision=precision,
            on_run=show.run,
        )
        show.close()
    settings = {
        "method": method,
        "criterion": criterion.to_dict(),
        "training": training.to_dict(),
        "projection": projection,
        "head": head,
        "scope": scope,
        "max_length": max_length,
        "train_examples": len(task.train),
        "test_examples": len(task.test),
        "runs": runs,
        "precision": precision,
        "burn_in": burn_in,
        "seed": seed,
        "device": str(backbone.device),
    }
    result = _assemble(backbone, task, frozen_head, full.size, predicted, measured, settings)
    if out:
        result.save(out)
    return result


def predict_dimension(
    model: str | Backbone = "minilm", task: str | Task = "stdlib-topics", **options: Any
) -> DimensionResult:
    """Predict d90 before training: `intrinsic_dimension(model, task, method="predict", ...)`."""
    return intrinsic_dimension(model, task, method="predict", **options)


def _prepared(task: Task, train: int | None, test: int | None, seed: int) -> Task:
    """Return the task within its limits, in stratified order; refuse a test split that decides nothing."""
    if task.kind != "classification":
        raise ValueError(f"task={task.name!r} is a {task.kind} task: intrinsic dimension needs classes.")
    limited = task.limited(
        min(train or len(task.train), len(task.train)), min(test or len(task.test), len(task.test)), seed
    )
    if len(limited.test) < _LEAST_TEST:
        raise ValueError(
            f"task={task.name!r} has {len(limited.test)} test examples: at least {_LEAST_TEST} are needed "
            "for an interval; give more, or raise test_examples"
        )
    return limited


class _Memory(ResultLog):
    """A log for runs that nobody asked to keep."""

    def __init__(self) -> None:
        super().__init__("memory")

    def append(self, config: Any, result: Any) -> dict:
        """Keep nothing."""
        return {}

    def find(self, config: Any) -> None:
        """Find nothing."""


class _Progress:
    """One bar at a time: kernel examples, or the steps of the present run."""

    def __init__(self, on: bool) -> None:
        self.on, self.bar = on, None

    def _open(self, total: int | None, title: str) -> Any:
        from tqdm import tqdm

        self.close()
        self.bar = tqdm(total=total, desc=title, file=sys.stderr)
        return self.bar

    def close(self) -> None:
        """Close the bar that is open."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def example(self, done: int, total: int) -> None:
        """Show one more example of the kernel."""
        if self.on:
            bar = self.bar or self._open(total, "kernel")
            bar.update(done - bar.n)

    def run(self, title: str, result: dict | None) -> Callable[[int, float], None] | None:
        """Start or finish a run's bar."""
        if not self.on:
            return None
        if result is not None:
            if self.bar is not None and result["test_accuracy"] is not None:
                self.bar.set_postfix_str(f"accuracy {result['test_accuracy']:.3f}")
            self.close()
            return None
        bar = self._open(None, title)

        def step(_: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}")
            bar.update()

        return step


def _assemble(
    backbone: Backbone,
    task: Task,
    head: Head,
    size: int,
    predicted: Prediction | None,
    measured: MeasuredDimension | None,
    settings: dict[str, Any],
) -> DimensionResult:
    level, baseline, passes, seconds = {}, {}, {}, {}
    for name, verb, part in (("predicted", "predict", predicted), ("measured", "measure", measured)):
        if part is not None:
            level[name], baseline[name] = part.level, part.baseline
            passes[verb], seconds[verb] = part.passes, part.seconds
    if predicted is not None:
        passes["predict"] += head.passes
    diagnostics: dict[str, Any] = dict(predicted.diagnostics) if predicted else {"missed": []}
    if predicted and measured and predicted.d90.value and measured.d90.value:
        ratio = predicted.d90.value / measured.d90.value
        diagnostics["ratio"] = ratio
        if not 0.5 <= ratio <= 2:
            diagnostics["missed"] = [
                f"Prediction: {ratio:.2f} times the measured d90, outside a factor of two.",
                *diagnostics["missed"],
            ]
    if measured and "not met" in measured.d90.status:
        diagnostics["missed"] = [*diagnostics["missed"], f"Search: {measured.d90.status}."]
    diagnostics["assumptions"] = _ASSUMPTIONS
    rates = {"predict": predicted.learning_rate} if predicted else {}
    if measured:
        rates["measure"] = measured.learning_rate
    return DimensionResult(
        predicted=predicted.d90 if predicted else None,
        measured=measured.d90 if measured else None,
        level=level,
        baseline=baseline,
        chance=task.chance,
        frozen=measured.frozen if measured else predicted.frozen if predicted else 0.0,
        size=size,
        curve=[*(predicted.curve if predicted else []), *(measured.curve if measured else [])],
        passes=passes,
        full_runs=measured.full_runs if measured else 0.0,
        seconds=seconds,
        diagnostics=diagnostics,
        settings={**settings, "learning_rate": rates},
        provenance={
            **provenance(),
            "model": backbone.provenance,
            "task": {"name": task.name, **task.provenance},
            "seed": settings["seed"],
        },
    )


_ASSUMPTIONS = [
    "The head is frozen: full fine-tuning and every subspace tune the same function f(x; θ).",
    "Every run has the same step budget; with more steps d90 falls.",
    "The prediction linearizes the logits at θ₀ and trains that model, in Gaussian subspaces, with the "
    "optimizer, steps and batch size of the measurement.",
    "The predicted baseline is the same linearized model without a limit on d, not full fine-tuning.",
    "The predicted interval has sampling (examples and folds) and a factor of two for linearization; the "
    "measured one has runs (subspace and data order), not the choice of test examples.",
]
