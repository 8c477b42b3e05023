"""`deltatheory advise`: which method a task should be tuned with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from deltatheory.cli.common import (
    Device,
    MaxLength,
    Model,
    Progress,
    TaskName,
    errors_in_one_line,
    options_of,
    print_table,
    table_of,
)


def advise(
    model: Model = "minilm",
    task: TaskName = "stdlib-topics",
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
    max_length: MaxLength = 64,
    seed: Annotated[int, Option(help="Of deltas and samples.")] = 0,
    device: Device = "cpu",
    out: Annotated[Path, Option(help="Folder for advice.json, advice.svg and adapter_config.json.")] = Path(
        "runs/advise"
    ),
    progress: Progress = True,
) -> None:
    """Which method, which size, which modules? Scores predicted from kernels, before any training."""
    with errors_in_one_line():
        from tqdm import tqdm

        from deltatheory.advice import CANDIDATES, Candidate
        from deltatheory.advice import advise as compare
        from deltatheory.problems import Setup

        setup = Setup(model, task, head=head, max_length=max_length, seed=seed, device=device)
        given = [one.split() for one in candidate or []]
        with tqdm(desc="kernels", disable=not progress) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            advice = compare(
                setup,
                candidates=[Candidate(name, options_of(rest)) for name, *rest in given] or CANDIDATES,
                max_parameters=max_parameters,
                max_minutes=max_minutes,
                steps=steps,
                batch_size=batch_size,
                examples=examples,
                on_example=show,
            )
        advice.save(out)
    table = table_of("candidate", "score", "90 % interval", "parameters", "optimizer MB", "s/step", "budget")
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
    print_table(table)
    print(f"The frozen model: {advice.frozen:.3f}. Passes: {advice.passes:,.0f} in {advice.seconds:.0f} s.")
    for sentence in advice.findings:
        print(f"  - {sentence}")
    if advice.adapter_config:
        print(f"For peft: {out / 'adapter_config.json'}")
    print(f"Numbers: {out / 'advice.json'}; figure: {out / 'advice.svg'}")
