"""The command line: each command is a function of the library with its arguments as options.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer import Option

from deltatheory import __version__

if TYPE_CHECKING:
    from rich.table import Table

    from deltatheory.dimension.criterion import Interval
    from deltatheory.dimension.result import DimensionResult

app = typer.Typer(
    name="deltatheory",
    help="The theory of parameter-efficient fine-tuning, executable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # plain text: narrow terminals can read it, and it takes half the time
)


def _show_version(asked: bool) -> bool:
    if asked:
        print(f"deltatheory {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _main(
    version: Annotated[
        bool, Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Turn what the library raises about bad input into one red line and exit code 2."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        _fail(error)
    except RuntimeError as error:
        from deltatheory.autodiff import DerivativeError

        if not isinstance(error, DerivativeError):
            raise
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    typer.secho(f"Error: {' '.join(str(error).split())}", fg=typer.colors.RED, err=True)
    raise typer.Exit(2) from error


def _stopped(out: Path) -> NoReturn:
    text = f"\nStopped. What has finished is kept in {out}; the same command goes on from there."
    typer.secho(text, err=True)
    raise typer.Exit(130) from None


@app.command()
def dimension(
    model: Annotated[str, Option(help="minilm, a local folder, or a hub id.")] = "minilm",
    task: Annotated[
        str, Option(help="An embedded task (see `tasks`), a .jsonl, .csv or .parquet file, or hub:NAME.")
    ] = "stdlib-topics",
    method: Annotated[
        Literal["predict", "measure", "both"],
        Option(help="Predict before training, measure by training, or both."),
    ] = "both",
    projection: Annotated[str, Option(help="How the subspace is drawn; see `projections`.")] = "hashed",
    head: Annotated[str, Option(help="label-words, prototypes, probe or random.")] = "label-words",
    scope: Annotated[str, Option(help="Parameters that move: blocks or all.")] = "blocks",
    fraction: Annotated[float, Option(help="Share of the baseline to reach: 0.9 for d90.")] = 0.9,
    baseline: Annotated[
        float | None,
        Option(help="Accuracy to compare with; by default that of full fine-tuning with the same steps."),
    ] = None,
    corrected: Annotated[bool, Option("--corrected", help="Count accuracy from chance, not from 0.")] = False,
    steps: Annotated[int, Option(help="Step budget of every training run.")] = 120,
    batch_size: Annotated[int, Option(help="Examples a step.")] = 32,
    train_examples: Annotated[
        int | None, Option(help="Training examples to use at most; 0 for all of them.")
    ] = 512,
    test_examples: Annotated[
        int | None, Option(help="Held-out examples to use at most; all by default.")
    ] = None,
    max_length: Annotated[int, Option(help="Longer texts are cut at so many tokens.")] = 64,
    runs: Annotated[float, Option(help="Budget of the measurement, in full fine-tuning runs.")] = 6.0,
    precision: Annotated[
        float, Option(help="Stop once the 90 % interval is this narrow: 0.25 is ±25 %.")
    ] = 0.25,
    burn_in: Annotated[
        int, Option(help="Steps of full fine-tuning before the network is linearized; 0 predicts before any.")
    ] = 0,
    seed: Annotated[int, Option(help="Of subspaces, data order and samples.")] = 0,
    device: Annotated[str, Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    out: Annotated[
        Path, Option(help="Folder for report.html, result.json and trials.jsonl; finished runs are reused.")
    ] = Path("runs/dimension"),
    progress: Annotated[bool, Option(help="Show progress bars.")] = True,
) -> None:
    """How many dimensions does my task need? d90, predicted before training and measured by training."""
    with _errors_in_one_line():
        from deltatheory.dimension import intrinsic_dimension
        from deltatheory.dimension.criterion import Criterion

        try:
            result = intrinsic_dimension(
                model,
                task,
                method=method,
                projection=projection,
                head=head,
                scope=scope,
                criterion=Criterion(fraction=fraction, baseline=baseline, corrected=corrected),
                steps=steps,
                batch_size=batch_size,
                train_examples=train_examples or None,
                test_examples=test_examples or None,
                max_length=max_length,
                runs=runs,
                precision=precision,
                burn_in=burn_in,
                seed=seed,
                device=device,
                out=out,
                progress=progress,
            )
        except KeyboardInterrupt:
            _stopped(out)
    _print(_dimension_table(result))
    missed = result.diagnostics.get("missed", [])
    if missed:
        print("What missed:")
        for sentence in missed:
            print(f"  - {sentence}")
    print(f"Report: {(out / 'report.html').resolve().as_uri()}")
    print(f"Numbers: {out / 'result.json'}")


def _dimension_table(result: DimensionResult) -> Table:
    table = _table("", "d90", "90 % interval", "level", "passes", "seconds", "status")
    rows: tuple[tuple[str, str, str, Interval | None], ...] = (
        ("predicted before training", "predicted", "predict", result.predicted),
        ("measured by training", "measured", "measure", result.measured),
    )
    from deltatheory.report import count, estimate, span

    for label, name, verb, interval in rows:
        if interval is None:
            continue
        table.add_row(
            label,
            estimate(interval),
            span(interval),
            f"{result.level[name]:.3f}" if name in result.level else "",
            count(result.passes.get(verb)),
            f"{result.seconds[verb]:.0f}" if verb in result.seconds else "",
            interval.status,
        )
    return table


@app.command()
def train(
    model: Annotated[str, Option(help="minilm, a local folder, or a hub id.")] = "minilm",
    task: Annotated[
        str, Option(help="An embedded task (see `tasks`), a .jsonl, .csv or .parquet file, or hub:NAME.")
    ] = "stdlib-topics",
    delta: Annotated[str, Option(help="What to tune (see `deltas`).")] = "lora",
    option: Annotated[
        list[str] | None, Option(help="Of the delta, as NAME=VALUE: r=8, or targets='[\"query\"]'.")
    ] = None,
    head: Annotated[
        str, Option(help="Of a classification task: label-words, prototypes, probe, random or verbalizer.")
    ] = "label-words",
    suffix: Annotated[
        str, Option(help="Put after each text, before the label word (verbalizer) or the target to generate.")
    ] = "",
    optimizer: Annotated[Literal["adamw", "sgd"], Option(help="AdamW or SGD.")] = "adamw",
    steps: Annotated[int, Option(help="Optimizer steps.")] = 300,
    batch_size: Annotated[int, Option(help="Examples a step.")] = 32,
    learning_rate: Annotated[float, Option(help="The peak, after warm-up.")] = 1e-3,
    warmup: Annotated[float, Option(help="Share of the steps before the peak.")] = 0.1,
    momentum: Annotated[float, Option(help="Of SGD.")] = 0.0,
    weight_decay: Annotated[float, Option(help="Pull towards the frozen model.")] = 0.0,
    clip: Annotated[float | None, Option(help="Largest norm of a gradient.")] = None,
    evaluate_every: Annotated[
        int | None, Option(help="Steps between evaluations of the dev split; the best one is kept.")
    ] = None,
    patience: Annotated[
        int | None, Option(help="Stop after so many evaluations without a better one.")
    ] = None,
    autocast: Annotated[bool, Option(help="Run the network in bfloat16 (CUDA only).")] = False,
    train_examples: Annotated[int | None, Option(help="Training examples to use; all by default.")] = None,
    test_examples: Annotated[int | None, Option(help="Test examples to use; all by default.")] = None,
    max_length: Annotated[int, Option(help="Longer texts are cut at so many tokens.")] = 64,
    max_new_tokens: Annotated[int, Option(help="Longest target and answer of a generation task.")] = 16,
    seed: Annotated[int, Option(help="Of the data order, the draw of examples, and a random head.")] = 0,
    compare: Annotated[
        bool, Option(help="Also time five steps of full fine-tuning, and count what it tunes and keeps.")
    ] = True,
    device: Annotated[str, Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    out: Annotated[
        Path, Option(help="Folder for result.json and delta.safetensors; a stopped run goes on from there.")
    ] = Path("runs/train"),
    progress: Annotated[bool, Option(help="Show a progress bar.")] = True,
) -> None:
    """Train one delta on a task; the same command goes on with a run that was stopped."""
    with _errors_in_one_line():
        from deltatheory.training import Training
        from deltatheory.tuning import tune

        training = Training(
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup=warmup,
            seed=seed,
            optimizer=optimizer,
            momentum=momentum,
            weight_decay=weight_decay,
            clip=clip,
            evaluate_every=evaluate_every,
            patience=patience,
            autocast=autocast,
        )
        try:
            result = tune(
                model,
                task,
                delta,
                _options(option or []),
                training,
                head=head,
                suffix=suffix,
                train_examples=train_examples,
                test_examples=test_examples,
                max_length=max_length,
                max_new_tokens=max_new_tokens,
                compare=compare,
                device=device,
                out=out,
                progress=progress,
            )
        except KeyboardInterrupt:
            _stopped(out)
    _print(_training_table(result))
    print(f"Status: {result['status']}")
    if result["test"] is not None:
        print("Test: " + ", ".join(f"{name} {value:.3f}" for name, value in result["test"].items()))
        print(f"Delta: {out / 'delta.safetensors'}")
    print(f"Numbers: {out / 'result.json'}")


def _options(given: list[str]) -> dict[str, Any]:
    """Return NAME=VALUE pairs as arguments; a value is JSON where it can be, else a text."""
    options: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"option={pair!r}: must be NAME=VALUE.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _training_table(result: dict[str, Any]) -> Table:
    table = _table("", "this delta", "full fine-tuning", "ratio")
    rows = {
        "tuned parameters": ("tuned_parameters", ",.0f"),
        "optimizer state, bytes": ("optimizer_state_bytes", ",.0f"),
        "seconds a step": ("seconds_per_step", ".3g"),
    }
    if result["settings"]["device"] != "cpu":  # there a process has one high-water mark for both runs
        rows["peak memory, bytes"] = ("peak_memory", ",.0f")
    for label, (name, form) in rows.items():
        values = (result[name], (result["full"] or {}).get(name))
        texts = ["" if value is None else format(value, form) for value in values]
        ratio = f"{values[0] / values[1]:.3g}" if values[0] is not None and values[1] else ""
        table.add_row(label, *texts, ratio)
    return table


@app.command()
def advise(
    model: Annotated[str, Option(help="minilm, a local folder, or a hub id.")] = "minilm",
    task: Annotated[
        str, Option(help="An embedded task (see `tasks`), a .jsonl, .csv or .parquet file, or hub:NAME.")
    ] = "stdlib-topics",
    candidate: Annotated[
        list[str] | None,
        Option(help="A delta with its options, as 'lora r=8'; by default eleven of several families."),
    ] = None,
    max_parameters: Annotated[int | None, Option(help="Budget of tuned numbers.")] = None,
    max_minutes: Annotated[float | None, Option(help="Budget of training time on this machine.")] = None,
    steps: Annotated[int, Option(help="Steps of the training that is planned.")] = 120,
    batch_size: Annotated[int, Option(help="Examples a step of that training.")] = 32,
    examples: Annotated[int, Option(help="Training examples to compute kernels of, at most.")] = 448,
    head: Annotated[str, Option(help="label-words, prototypes, probe or random.")] = "label-words",
    max_length: Annotated[int, Option(help="Longer texts are cut at so many tokens.")] = 64,
    seed: Annotated[int, Option(help="Of deltas and samples.")] = 0,
    device: Annotated[str, Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    out: Annotated[Path, Option(help="Folder for advice.json, advice.svg and adapter_config.json.")] = Path(
        "runs/advise"
    ),
    progress: Annotated[bool, Option(help="Show a progress bar.")] = True,
) -> None:
    """Which method, which size, which modules? Scores predicted from kernels, before any training."""
    with _errors_in_one_line():
        from tqdm import tqdm

        from deltatheory.advice import CANDIDATES, Candidate
        from deltatheory.advice import advise as compare

        given = [one.split() for one in candidate or []]
        with tqdm(desc="kernels", disable=not progress) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            advice = compare(
                model,
                task,
                candidates=[Candidate(name, _options(rest)) for name, *rest in given] or CANDIDATES,
                max_parameters=max_parameters,
                max_minutes=max_minutes,
                steps=steps,
                batch_size=batch_size,
                examples=examples,
                head=head,
                max_length=max_length,
                seed=seed,
                device=device,
                on_example=show,
            )
        advice.save(out)
    table = _table("candidate", "score", "90 % interval", "parameters", "optimizer MB", "s/step", "budget")
    for one in advice.ranked:
        table.add_row(
            one.label,
            f"{one.score:.3f}",
            f"{one.low:.3f}–{one.high:.3f}",
            f"{one.parameters:,}",
            f"{one.optimizer_bytes / 1e6:.2f}",
            f"{one.seconds_per_step:.3g}",
            "" if one.within_budget else "outside",
        )
    _print(table)
    print(f"The frozen model: {advice.frozen:.3f}. Passes: {advice.passes:,.0f} in {advice.seconds:.0f} s.")
    for sentence in advice.findings:
        print(f"  - {sentence}")
    if advice.adapter_config:
        print(f"For peft: {out / 'adapter_config.json'}")
    print(f"Numbers: {out / 'advice.json'}; figure: {out / 'advice.svg'}")


@app.command()
def explain(
    adapter: Annotated[
        str, typer.Argument(help="A folder in peft's format, a hub id, or a file of `train`.")
    ],
    model: Annotated[str | None, Option(help="The base model, where the adapter does not name it.")] = None,
    task: Annotated[
        str | None, Option(help="Verify on this task; without one only the spectra are read.")
    ] = None,
    keep: Annotated[float, Option(help="Share of the effect to keep.")] = 0.99,
    head: Annotated[str, Option(help="The head that the adapter was trained with.")] = "label-words",
    suffix: Annotated[str, Option(help="The suffix that it was trained with.")] = "",
    examples: Annotated[int, Option(help="Examples of each split to use, at most.")] = 256,
    max_length: Annotated[int, Option(help="Longer texts are cut at so many tokens.")] = 64,
    device: Annotated[str | None, Option(help="cpu, cuda, cuda:1, ...")] = None,
    out: Annotated[Path, Option(help="Folder for explanation.json and truncated/.")] = Path("runs/explain"),
) -> None:
    """Say what a trained adapter uses: ranks, movement, and the smallest ranks that keep its effect."""
    with _errors_in_one_line():
        from deltatheory.explanation import explain as read

        found = read(
            adapter,
            model,
            task,
            keep=keep,
            head=head,
            suffix=suffix,
            examples=examples,
            max_length=max_length,
            device=device,
        )
        found.save(out)
    table = _table("module", "movement", "rank", "used", "kept", "effective rank")
    for one in found.modules:
        numbers = (one.rank, one.used, one.kept)
        movement = "" if one.movement is None else f"{one.movement:.3g}"
        effective = "" if one.effective_rank is None else f"{one.effective_rank:.1f}"
        table.add_row(one.name, movement, *("" if n is None else str(n) for n in numbers), effective)
    _print(table)
    for sentence in found.findings:
        print(f"  - {sentence}")
    if found.adapter is not None:
        print(f"For peft: {out / 'truncated'}")
    print(f"Numbers: {out / 'explanation.json'}")


@app.command()
def tasks() -> None:
    """List the embedded tasks."""
    with _errors_in_one_line():
        from deltatheory.tasks import EMBEDDED, load_task

        table = _table("task", "classes", "train", "dev", "test", "labels")
        for name in EMBEDDED:
            found = load_task(name)
            sizes = (len(part) for part in (found.train, found.dev, found.test))
            table.add_row(name, str(found.num_classes), *map(str, sizes), ", ".join(found.label_names))
    _print(table)


@app.command()
def deltas(
    model: Annotated[
        str | None, Option(help="Count the parameters that each would tune in this model, at its defaults.")
    ] = None,
) -> None:
    """List the deltas: the ways to change a frozen backbone, their family, and where in a layer they act."""
    with _errors_in_one_line():
        from deltatheory.deltas import DELTAS, parameter_counts

        counts: dict[str, int | None] = {}
        if model is not None:
            from deltatheory.backbones import load_backbone

            counts = parameter_counts(load_backbone(model))
    table = _table("delta", "family", "formula", "acts on", "affine", *(["parameters"] if counts else []))
    for name, kind in DELTAS.items():
        size = counts.get(name)
        row = [name, kind.family, kind.formula, kind.acts, "yes" if kind.affine else "no"]
        table.add_row(*row, *([] if not counts else ["as its options say" if size is None else f"{size:,}"]))
    _print(table)
    print("affine: whether the map of a controlled layer is affine in δ, at a fixed input.")


@app.command()
def projections() -> None:
    """List the projections: the ways to draw a random subspace."""
    with _errors_in_one_line():
        from deltatheory.projections import PROJECTIONS, make_projection
    table = _table("projection", "nested", "isometry", "construction")
    for name, kind in PROJECTIONS.items():
        D = 64 if name == "identity" else 1 << 20
        bound = make_projection(name, 64, D, seed=0).isometry
        first = (kind.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, "yes" if kind.nested else "no", "exact" if bound == 0 else f"{bound:.1g}", first)
    _print(table)
    print("nested: the subspaces of smaller d lie in those of larger d.")
    print("isometry: a bound on the norm of PᵀP - I, here at d = 64 and D = 2^20.")


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    # A pipe or a file has no width: give each row one line there.
    Console(width=None if console.is_terminal else 200).print(table)
