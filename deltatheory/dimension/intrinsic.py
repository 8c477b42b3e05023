"""d90 of a task, predicted before training and measured by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from deltatheory.dimension.criterion import Criterion
from deltatheory.dimension.measure import MeasuredDimension, check_budget, measure
from deltatheory.dimension.predict import Prediction, kernel_examples, predict
from deltatheory.dimension.result import CurvePoint, DimensionResult
from deltatheory.dimension.settings import DimensionSettings
from deltatheory.dimension.trials import OnRun, identity
from deltatheory.problems import Problem, Setup
from deltatheory.results import ResultLog, provenance

__all__ = ["Method", "intrinsic_dimension"]

Method = Literal["predict", "measure", "both"]

_LEAST_TEST = 50  # with fewer, one example moves accuracy by more than the interval is wide


def intrinsic_dimension(
    setup: Setup | Problem | Mapping[str, Any] | None = None,
    *,
    method: Method = "both",
    criterion: Criterion | None = None,
    settings: DimensionSettings | None = None,
    log: ResultLog | None = None,
    on_example: Callable[[int, int], None] | None = None,
    on_run: OnRun | None = None,
    on_point: Callable[[CurvePoint], None] | None = None,
) -> DimensionResult:
    """Predict d90 from the tangent kernel, measure it by training in random subspaces, or both.

    d90 is the smallest d for which training δ in θ = θ₀ + Pδ, P: R^d → R^D random, reaches 90 % of the
    accuracy of full fine-tuning with the same step budget (Li et al. 2018; Aghajanyan et al. 2021). There
    is one posterior of the curve: the prediction is it before any run, the measurement after the last one.

    Args:
        setup: backbone, classification task, head, limits and seed (`Setup.of`); its examples are taken in
            stratified order. The seed is that of subspaces, data order and draws.
        method: "predict" (no training), "measure" (without the kernel), or "both" (runs sharpen the
            prediction).
        criterion: what counts as solved; 0.9 of the model's own full fine-tuning by default.
        settings: subspaces, step budget, and when to stop.
        log: what is finished is read from here, and added: a search that was cut off goes on.
        on_example: called with (done, total) examples of the kernel.
        on_run: called with the title of a training run before it; it returns the run's `on_step`.
        on_point: called with each point of the measured curve.

    Raises:
        ValueError: for bad arguments; the message names the argument, the value and what is allowed.
        DerivativeError: if the backbone's derivatives fail the self-check.
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r}: allowed are 'predict', 'measure' and 'both'.")
    criterion, settings = criterion or Criterion(), settings or DimensionSettings()
    if method == "both" and not settings.runs:
        method = "predict"
    if method != "predict":
        check_budget(settings, criterion)
    setup = _stratified(Setup.of(setup), least_test=0 if method == "predict" else _LEAST_TEST)
    if method != "predict" or settings.burn_in:
        trains = f"method={method!r}" if method != "predict" else f"burn_in={settings.burn_in}"
        setup.backbone.check_on_one_device(trains)
    full = setup.delta("full", scope=settings.scope)
    setup.classification(full)  # for its self-check
    predicted = measured = None
    if method != "measure":
        predicted = _predicted(setup, criterion, settings, log, on_example)
    if method != "predict":
        measured = measure(
            setup,
            criterion,
            settings,
            prediction=predicted,
            log=log,
            on_run=on_run,
            on_point=on_point,
        )
    given = _settings(setup, method, criterion, settings)
    return _result(setup, full.size, predicted, measured, given)


def _stratified(setup: Setup, least_test: int) -> Setup:
    """Return the setup with its examples in stratified order; refuse a test split that decides nothing."""
    task = setup.task
    if task.kind != "classification":
        raise ValueError(f"task={task.name!r} is a {task.kind} task: intrinsic dimension needs classes.")
    setup.check_head()
    if len(task.test) < least_test:
        raise ValueError(
            f"task={task.name!r} has {len(task.test)} test examples: at least {least_test} are needed for an "
            "interval. Give more, test_examples=200, or test_share=0.4 of a table that has no test split; or "
            "take runs=0, which trains nothing and needs none"
        )
    return setup.replace(train_examples=len(task.train), test_examples=len(task.test))


def _predicted(
    setup: Setup,
    criterion: Criterion,
    settings: DimensionSettings,
    log: ResultLog | None,
    on_example: Callable[[int, int], None] | None,
) -> Prediction:
    """Predict, or find it in the log."""
    about = {
        "outputs": "logits",
        "examples": kernel_examples(setup.task),
        "scope": settings.scope,
        "criterion": criterion.to_dict(),
        "burn_in": settings.burn_in,
    }
    training = settings.training(setup.seed).to_dict()
    config = {**identity(setup), "prediction": about, "training": training}
    if log is not None and (known := log.result(config, Prediction)):
        return known
    predicted = predict(setup, criterion, settings, on_example=on_example)
    if log is not None:
        log.append(config, predicted.to_dict())
    return predicted


def _settings(
    setup: Setup, method: Method, criterion: Criterion, settings: DimensionSettings
) -> dict[str, Any]:
    return {
        "method": method,
        "criterion": criterion.to_dict(),
        "training": settings.training(setup.seed).to_dict(),
        "projection": settings.projection,
        **setup.head.identity(),
        "scope": settings.scope,
        "max_length": setup.max_length,
        "train_examples": len(setup.task.train),
        "test_examples": len(setup.task.test),
        "runs": settings.runs,
        "precision": settings.precision,
        "burn_in": settings.burn_in,
        "seed": setup.seed,
        "device": str(setup.backbone.device),
    }


def _result(
    setup: Setup,
    size: int,
    predicted: Prediction | None,
    measured: MeasuredDimension | None,
    settings: dict[str, Any],
) -> DimensionResult:
    level, baseline, passes, seconds, rates = {}, {}, {}, {}, {}
    for name, verb, part in (("predicted", "predict", predicted), ("measured", "measure", measured)):
        if part is not None:
            level[name], baseline[name] = part.level, part.baseline
            passes[verb], seconds[verb], rates[verb] = part.passes, part.seconds, part.learning_rate
    if predicted is not None:
        passes["predict"] += setup.head.passes
    return DimensionResult(
        predicted=predicted.d90 if predicted else None,
        measured=measured.d90 if measured else None,
        level=level,
        baseline=baseline,
        chance=setup.task.chance,
        frozen=measured.frozen if measured else predicted.frozen if predicted else 0.0,
        size=size,
        curve=[*(predicted.curve if predicted else []), *(measured.curve if measured else [])],
        passes=passes,
        full_runs=measured.full_runs if measured else 0.0,
        seconds=seconds,
        diagnostics=_diagnostics(predicted, measured),
        settings={**settings, "learning_rate": rates},
        provenance={
            **provenance(),
            "model": setup.backbone.provenance,
            "task": {"name": setup.task.name, **setup.task.provenance},
            "seed": setup.seed,
        },
        fractions={
            name: part.fractions
            for name, part in (("predicted", predicted), ("measured", measured))
            if part is not None
        },
    )


def _diagnostics(predicted: Prediction | None, measured: MeasuredDimension | None) -> dict[str, Any]:
    found: dict[str, Any] = dict(predicted.diagnostics) if predicted else {"missed": []}
    if predicted and measured and predicted.d90.value and measured.d90.value:
        found["ratio"] = ratio = predicted.d90.value / measured.d90.value
        if not 0.5 <= ratio <= 2:
            sentence = f"Prediction: {ratio:.2f} times the measured d90, outside a factor of two."
            found["missed"] = [sentence, *found["missed"]]
    if measured and "not met" in measured.d90.status:
        found["missed"] = [*found["missed"], f"Search: {measured.d90.status}."]
    return {**found, "assumptions": _ASSUMPTIONS}


_ASSUMPTIONS = [
    "The head is frozen: full fine-tuning and every subspace tune the same function f(x; θ).",
    "Every run has the same step budget; with more steps d90 falls.",
    "The prediction linearizes the logits at θ₀ and trains that model, in Gaussian subspaces, with the "
    "optimizer, steps and batch size of the measurement.",
    "The predicted baseline is the same linearized model without a limit on d, not full fine-tuning.",
    "The predicted interval has sampling (examples) and what linearization missed by on other tasks; the "
    "measured one begins with it and has runs (subspace and data order), not the choice of test examples.",
]
