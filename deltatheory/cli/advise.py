"""`deltatheory advise`: which method a task should be tuned with."""

from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from deltatheory.cli.options import SETUP, TRAINING, Group, Progress, Shared, command, options_of, results_in
from deltatheory.cli.output import print_table, progress_bar, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from deltatheory.advice import Advice
    from deltatheory.cli.runs import RunFolder
    from deltatheory.problems import Setup
    from deltatheory.training import Training

_BUDGET = Group(
    dict,
    {
        "max_parameters": Shared(int | None, None, "Budget of tuned numbers."),
        "max_memory": Shared(float | None, None, "Budget of gradient and AdamW state, in MB."),
        "max_minutes": Shared(float | None, None, "Budget of training time on this machine."),
    },
)


@command(
    "models",
    "report",
    setup=SETUP.only(
        "model", "revision", "dtype", "task", "head", "suffix", "max_length", "seed", "device"
    ).changed(help={"seed": "Of deltas and samples."}),
    training=TRAINING.only("steps", "batch_size", "seed").changed(
        default={"steps": 120}, help={"steps": "Of the training that is planned.", "seed": "Of all draws."}
    ),
    budget=_BUDGET,
    out=results_in(
        "runs/advise", "Folder for advice.json, report.html, adapter_config.json and training_arguments.json."
    ),
)
def advise(
    setup: "Setup",
    training: "Training",
    budget: dict[str, Any],
    out: "RunFolder",
    candidate: Annotated[
        list[str] | None,
        Option(help="A delta with its options, as 'lora r=8'; by default ladders of several families."),
    ] = None,
    examples: Annotated[int, Option(help="Training examples to compute kernels of, at most.")] = 448,
    train_runs: Annotated[
        int, Option(help="Trainings at most, of the candidates whose results may change the answer.")
    ] = 0,
    progress: Progress = True,
) -> None:
    """Which delta is the smallest that suffices? From kernels, before any training or after a few runs."""
    from deltatheory.advice import CANDIDATES, Candidate, advise

    given = [one.split() for one in candidate or []]
    if [] in given:
        raise ValueError("candidate='': name a delta, with its options, as in 'lora r=8'.")
    with progress_bar(progress, desc="kernels") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        advice = advise(
            setup,
            candidates=[Candidate(name, options_of(rest)) for name, *rest in given] or CANDIDATES,
            **budget,
            training=training,
            examples=examples,
            train_runs=train_runs,
            on_example=show,
        )
    print(advice.decision or "No candidate keeps to the budget.")
    print_table(_ladder(advice))
    for run in advice.runs:
        print(f"Trained {run.label}: {run.score:.3f} on {run.examples} examples that it has not seen.")
    print(f"The frozen model: {advice.frozen:.3f}. Passes: {advice.passes:,.0f} in {advice.seconds:.0f} s.")
    for sentence in advice.findings:
        print(f"  - {sentence}")
    page = advice.save(out.own)  # after the answer, which a full disk does not take away
    if advice.adapter_config:
        print(f"For peft: {out.own / 'adapter_config.json'}")
    if advice.training_arguments:
        print(f"For transformers.TrainingArguments: {out.own / 'training_arguments.json'}")
    print(f"Numbers: {out.own / advice.FILE}")
    print(f"Report: {page.resolve().as_uri()}")


def _ladder(advice: "Advice") -> "Table":
    from deltatheory.report.advice import ladder

    table = table_of(
        "candidate",
        "parameters",
        "score",
        "90 % interval",
        "points gained",
        "rate",
        "budget",
    )
    for one in ladder(advice):
        gain = one.difference
        table.add_row(
            one.label,
            f"{one.parameters:,}",
            f"{one.score:.3f}",
            f"{one.low:.3f}–{one.high:.3f}",
            ""
            if gain is None or one.label == advice.winner
            else f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})",
            "" if one.learning_rate is None else f"{one.learning_rate:.2g}",
            "" if one.within_budget else "outside",
        )
    return table
