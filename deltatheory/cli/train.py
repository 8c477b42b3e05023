"""`deltatheory train`: one delta on one task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    stopped,
    table_of,
)

if TYPE_CHECKING:
    from rich.table import Table


def train(
    model: Model = "minilm",
    task: TaskName = "stdlib-topics",
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
    max_length: MaxLength = 64,
    max_new_tokens: Annotated[int, Option(help="Longest target and answer of a generation task.")] = 16,
    seed: Annotated[int, Option(help="Of the data order, the draw of examples, and a random head.")] = 0,
    compare: Annotated[
        bool, Option(help="Also time five steps of full fine-tuning, and count what it tunes and keeps.")
    ] = True,
    device: Device = "cpu",
    out: Annotated[
        Path, Option(help="Folder for result.json and delta.safetensors; a stopped run goes on from there.")
    ] = Path("runs/train"),
    track: Annotated[
        str | None, Option(help="A project of trackio that gets loss and scores at every evaluation.")
    ] = None,
    progress: Progress = True,
) -> None:
    """Train one delta on a task; the same command goes on with a run that was stopped."""
    with errors_in_one_line():
        from deltatheory.training.parallel import is_first
        from deltatheory.training.trainer import Training
        from deltatheory.training.tuning import tune

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
                options_of(option or []),
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
                track=track,
                progress=progress,
            )
        except KeyboardInterrupt:
            stopped(out)
    if not is_first():
        return
    print_table(_summary(result))
    print(f"Status: {result['status']}")
    if result["test"] is not None:
        print("Test: " + ", ".join(f"{name} {value:.3f}" for name, value in result["test"].items()))
        print(f"Delta: {out / 'delta.safetensors'}")
    print(f"Numbers: {out / 'result.json'}")


def _summary(result: dict[str, Any]) -> Table:
    table = table_of("", "this delta", "full fine-tuning", "ratio")
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
