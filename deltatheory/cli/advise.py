"""`deltatheory advise`: which method a task should be tuned with."""

from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from deltatheory.cli.options import SETUP, TRAINING, Group, Progress, Shared, command, results_in
from deltatheory.cli.output import aside, progress_bar, tell

if TYPE_CHECKING:
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

# Of the study `places`, layers.
_BLOCKS = (
    "Kernels choose a block no better than always the middle one (within a point of the best on 3 of 6 tasks "
    "of a study); one run in each was, on 5. Trained here: at most {runs}."
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
        "runs/advise", "Folder for advice.json, report.html and what peft and TrainingArguments read."
    ),
)
def advise(
    setup: "Setup",
    training: "Training",
    budget: dict[str, Any],
    out: "RunFolder",
    candidate: Annotated[
        list[str] | None,
        Option(
            help="A delta with its options, as lora:8 or 'lora r=8'; by default ladders of several families."
        ),
    ] = None,
    examples: Annotated[int, Option(help="Training examples to compute kernels of, at most.")] = 448,
    each_block: Annotated[
        bool, Option(help="Compare each candidate (lora:4 by default) in every block alone.")
    ] = False,
    train_runs: Annotated[
        int | None,
        Option(
            help="Trainings at most, of the candidates whose results may change the answer; none by default, "
            "with --each-block one of each."
        ),
    ] = None,
    progress: Progress = True,
) -> None:
    """Which delta is the smallest that suffices? From kernels, before any training or after a few runs."""
    from deltatheory.advice import CANDIDATES, Candidate, advise, in_each_block
    from deltatheory.advice.result import ADAPTER_ARGUMENTS

    if not all(map(str.strip, candidate or [])):
        raise ValueError("candidate='': name a delta, with its options, as in 'lora r=8'.")
    candidates = [Candidate.of(one) for one in candidate or (["lora:4"] if each_block else CANDIDATES)]
    if each_block:
        candidates = [one for given in candidates for one in in_each_block(given, setup.backbone)]
        train_runs = len(candidates) if train_runs is None else train_runs
        aside(_BLOCKS.format(runs=train_runs))
    with progress_bar(progress, desc="kernels") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        advice = advise(
            setup,
            candidates=candidates,
            **budget,
            training=training,
            examples=examples,
            train_runs=train_runs or 0,
            on_example=show,
        )
    files = {}
    if advice.adapter_config:
        files["For_peft"] = "adapter_config.json"
    if advice.adapter_training_arguments:
        files["For_peft,_TrainingArguments"] = ADAPTER_ARGUMENTS
    if advice.training_arguments:
        files["For_transformers.TrainingArguments"] = "training_arguments.json"
    tell(advice, out.own, **files)
