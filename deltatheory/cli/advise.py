"""`deltatheory advise`: which method a task should be tuned with."""

from typing import TYPE_CHECKING, Annotated

from typer import Option

from deltatheory.cli.options import SETUP, Progress, command, options_of, results_in
from deltatheory.cli.output import print_table, progress_bar, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from deltatheory.advice import Advice
    from deltatheory.cli.runs import RunFolder
    from deltatheory.problems import Setup


@command(
    "models",
    "report",
    setup=SETUP.only(
        "model", "revision", "dtype", "task", "head", "suffix", "max_length", "seed", "device"
    ).changed(help={"seed": "Of deltas and samples."}),
    out=results_in(
        "runs/advise", "Folder for advice.json, advice.svg, adapter_config.json and training_arguments.json."
    ),
)
def advise(
    setup: "Setup",
    out: "RunFolder",
    candidate: Annotated[
        list[str] | None,
        Option(help="A delta with its options, as 'lora r=8'; by default eleven of several families."),
    ] = None,
    max_parameters: Annotated[int | None, Option(help="Budget of tuned numbers.")] = None,
    max_minutes: Annotated[float | None, Option(help="Budget of training time on this machine.")] = None,
    steps: Annotated[int, Option(help="Steps of the training that is planned.")] = 120,
    batch_size: Annotated[int, Option(help="Examples a step of that training.")] = 32,
    examples: Annotated[int, Option(help="Training examples to compute kernels of, at most.")] = 448,
    progress: Progress = True,
) -> None:
    """Which method, which size, which modules? Scores predicted from kernels, before any training."""
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
            max_parameters=max_parameters,
            max_minutes=max_minutes,
            steps=steps,
            batch_size=batch_size,
            examples=examples,
            on_example=show,
        )
    print_table(_ranking(advice))
    print(f"The frozen model: {advice.frozen:.3f}. Passes: {advice.passes:,.0f} in {advice.seconds:.0f} s.")
    for sentence in advice.findings:
        print(f"  - {sentence}")
    advice.save(out.own)  # after the answer, which a full disk does not take away
    if advice.adapter_config:
        print(f"For peft: {out.own / 'adapter_config.json'}")
    if advice.training_arguments:
        print(f"For transformers.TrainingArguments: {out.own / 'training_arguments.json'}")
    print(f"Numbers: {out.own / advice.FILE}; figure: {out.own / 'advice.svg'}")


def _ranking(advice: "Advice") -> "Table":
    table = table_of(
        "candidate",
        "score",
        "90 % interval",
        "parameters",
        "learning rate",
        "optimizer MB",
        "s/step",
        "budget",
    )
    for one in advice.ranked:
        table.add_row(
            one.label,
            f"{one.score:.3f}",
            f"{one.low:.3f}–{one.high:.3f}",
            f"{one.parameters:,}",
            "" if one.learning_rate is None else f"{one.learning_rate:.2g}",
            f"{one.optimizer_bytes / 1e6:.2f}",
            f"{one.seconds_per_step:.3g}",
            "" if one.within_budget else "outside",
        )
    return table
