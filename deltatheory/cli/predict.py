"""`deltatheory predict` and `deltatheory export`: a trained adapter in use."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from deltatheory.cli.options import SETUP, Group, command, results_in, task_of

if TYPE_CHECKING:
    from deltatheory.cli.runs import RunFolder

_ADAPTER = "A folder of `train`, a folder in peft's format, a hub id (ID@REVISION), or a delta.safetensors."


def _asked(task: str | None, **others: Any) -> Any:
    """Return the texts that are asked for."""
    from deltatheory.tasks import load_inputs

    if task is None:
        raise ValueError("task: give a file with a column of texts.")
    given = task_of({"task": task, **others})["task"]
    return load_inputs(**given) if isinstance(given, dict) else load_inputs(given)


_INPUTS = SETUP.only("task").changed(
    kind={"task": str | None},
    default={"task": None},
    help={"task": "A table of texts; it needs no labels, and where it has some they are compared."},
)


@command("models", inputs=Group(_asked, _INPUTS.options))
def predict(
    inputs: Any,
    adapter: Annotated[str, Option(help=_ADAPTER)],
    out: Annotated[Path, Option(help="A CSV file.")] = Path("predictions.csv"),
    model: Annotated[
        str | None, Option(help="The base model; by default what the adapter names, if it is here.")
    ] = None,
    head: Annotated[
        str | None, Option(help="Where none lies beside the adapter: label-words, or verbalizer.")
    ] = None,
    classes: Annotated[list[str] | None, Option("--class", help="Names of its classes, in order.")] = None,
    suffix: Annotated[str, Option(help="Of a verbalizer.")] = "",
    max_length: Annotated[int | None, Option(help="Longer texts are cut at so many tokens.")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, cuda:1, ...")] = None,
) -> None:
    """Classify the texts of a table with a trained adapter."""
    from deltatheory.adapters import classifier_of, open_adapter
    from deltatheory.adapters import predict as classes_of
    from deltatheory.results import write_atomically

    held = open_adapter(adapter, model, device=device)
    about = {"head": head, "label_names": classes, "suffix": suffix, "max_length": max_length}
    read = classifier_of(held, adapter, **about)
    answers = classes_of(held, inputs.texts, inputs.pairs, classifier=read)
    found = answers.labels
    columns: dict[str, Any] = {"row": inputs.where, "text": inputs.texts}
    columns |= {"text2": inputs.pairs} if inputs.pairs else {}
    columns |= {"label": inputs.labels} if inputs.labels else {}
    columns |= {
        "prediction": found,
        "probability": [f"{p:.4f}" for p in answers.probabilities.amax(1).tolist()],
    }
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    write_atomically(out, file.getvalue().encode())
    known = [
        label == one
        for label, one in zip(inputs.labels or (), found, strict=False)
        if label in read.label_names
    ]
    score = (
        f", accuracy {sum(known) / len(known):.3f} on the {len(known)} with a known label" if known else ""
    )
    print(f"Predicted the classes of {len(found)} texts{score}: {out}")


@command("models", out=results_in("runs/export", "Folder that is written."))
def export(
    adapter: Annotated[str, typer.Argument(help=_ADAPTER)],
    out: "RunFolder",
    merged: Annotated[
        bool, Option("--merged", help="Write the base with the adapter in its weights; else an adapter.")
    ] = False,
    model: Annotated[
        str | None, Option(help="The base model; by default what the adapter names, if it is here.")
    ] = None,
) -> None:
    """Write a trained adapter for others: in peft's format, or merged into a checkpoint of transformers."""
    from deltatheory.adapters import classifier_of, is_for_peft, merge, open_adapter, write_adapter

    held = open_adapter(adapter, model)
    try:
        read = classifier_of(held, adapter)
    except ValueError:  # it comes without one
        read = None
    if merged:
        merge(held, out.own)
        if read is not None:
            read.save(out.own)
        print(f"A checkpoint of transformers with the adapter in its weights: {out.own}")
    else:
        write_adapter(out.own, held.delta, held.values, read)
        form = "An adapter of peft" if is_for_peft(held.delta, read) else "A delta (peft has no form for it)"
        print(f"{form}: {out.own}")
