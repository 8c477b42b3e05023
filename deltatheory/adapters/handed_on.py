"""A trained delta in use: as a folder for others, merged into its base, and on new texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.adapters.adapter import DELTA, PeftAdapter, TrainedAdapter, open_adapter, place_of
from deltatheory.adapters.exported import has_peft_form, to_peft
from deltatheory.backbones import Backbone, Edit, load_checkpoint
from deltatheory.deltas import Delta, WithHead
from deltatheory.deltas.files import save_delta
from deltatheory.problems.classifier import Classifier
from deltatheory.results import write_atomically

__all__ = [
    "CARD",
    "Predictions",
    "classifier_beside",
    "classifier_of",
    "is_for_peft",
    "merge",
    "predict",
    "write_adapter",
]

CARD = "README.md"


def write_adapter(
    folder: str | os.PathLike[str],
    delta: Delta,
    values: Float[Tensor, " m"],
    classifier: Classifier | None = None,
    card: str | None = None,
) -> None:
    """Write a trained delta as a folder that is used elsewhere: by `peft` where it has a form, else here.

    The classifier goes beside it as head.safetensors. Of a checkpoint that has one of its own it is PEFT's
    too, in the class `AutoModelForSequenceClassification`.

    Args:
        folder: made if absent.
        delta: the kind of change and its backbone.
        values: δ.
        classifier: what reads it.
        card: text of the model card, README.md.
    """
    folder, form = Path(folder), _handed(delta, classifier)
    if not has_peft_form(form):
        save_delta(folder / DELTA, delta, values)
    elif form is delta:
        to_peft(form, values, folder)
    elif isinstance(form, WithHead):
        to_peft(form, torch.cat([values, values.new_zeros(form.size - delta.size)]), folder)
    else:
        to_peft(form, cast(WithHead, delta).split(values)[0], folder)
    if classifier is not None:
        classifier.save(folder)
    if card is not None:
        write_atomically(folder / CARD, card.encode())


def is_for_peft(delta: Delta, classifier: Classifier | None) -> bool:
    """Return whether `write_adapter` writes what `peft` loads."""
    return has_peft_form(_handed(delta, classifier))


def _handed(delta: Delta, classifier: Classifier | None) -> Delta:
    """Return a delta as PEFT has it: with the checkpoint's own head, without any other."""
    if isinstance(delta, WithHead):
        return delta if delta.head == "own" else delta.delta
    if classifier is not None and classifier.head.kind == "own":
        return WithHead(delta, "own", classifier.head.parameters())
    return delta


@torch.no_grad()
def merge(held: TrainedAdapter, folder: str | os.PathLike[str]) -> None:
    """Write the base with an adapter merged into its weights, as a checkpoint of `transformers`.

    Args:
        held: the adapter; its model is not to be used afterwards.
        folder: made if absent.

    Raises:
        ValueError: for an adapter that is more than a change of parameters (prefixes, prompts, bottlenecks).
    """
    backbone = held.backbone
    backbone.check_on_one_device("merge")
    batch = backbone.encode(["a b c d e"])
    theirs = backbone.hidden_states(batch, held.delta.edit(held.values))
    if isinstance(held, PeftAdapter):
        if held.delta.model.active_peft_config.is_prompt_learning:
            raise ValueError(f"the adapter ({held.kind}) puts tokens before a text: no weights are that.")
        model: Any = held.delta.model.merge_and_unload()
        after = backbone.hidden_states(batch)
    else:
        new = held.delta.parameters(held.values)
        after = backbone.hidden_states(batch, Edit(parameters=new))
        about = backbone.provenance
        revision = None if about.get("weights_sha256") else about.get("revision")
        model, _, _ = load_checkpoint(backbone.name, revision=revision, dtype=backbone.dtype, download=False)
        named = dict((model if model.base_model is model else model.base_model).named_parameters())
        for name, p in new.items():
            named[name].copy_(p)
    error = float((after - theirs).abs().max())
    if not error <= torch.finfo(backbone.dtype).eps ** 0.5 * float(theirs.abs().max()):
        raise ValueError(
            f"the adapter ({held.kind}) is no change of weights alone: it cannot be merged; use it as it is."
        )
    model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Classes of texts.

    Attributes:
        label_names: one a class.
        probabilities: shape (n, C).
    """

    label_names: tuple[str, ...]
    probabilities: Float[Tensor, "n C"]

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each text."""
        return [self.label_names[i] for i in self.probabilities.argmax(1).tolist()]

    def __repr__(self) -> str:
        return f"<Predictions: {len(self.probabilities)} texts, classes {', '.join(self.label_names)}>"


def predict(
    adapter: str | os.PathLike[str] | tuple[Any, Any] | TrainedAdapter,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    classifier: Classifier | None = None,
    **base: Any,
) -> Predictions:
    """Classify texts with a trained adapter.

    Args:
        adapter: what `open_adapter` takes, or what it returned.
        texts: the inputs.
        pairs: the second text of each.
        classifier: what reads the states; by default the one that lies beside the adapter, or the
            checkpoint's own.
        base: further arguments of `open_adapter`.

    Raises:
        ValueError: where nothing says what the classes are, and as `open_adapter`.
    """
    held = adapter if isinstance(adapter, TrainedAdapter) else open_adapter(adapter, **base)
    found = classifier or classifier_of(held, None if adapter is held else adapter)
    return Predictions(found.label_names, found.predict(held.delta, held.values, texts, pairs))


def classifier_beside(adapter: str | os.PathLike[str], backbone: Backbone) -> Classifier | None:
    """Return the classifier whose file lies beside an adapter, `None` where there is none."""
    place = place_of(adapter)
    folder = place if place.is_dir() else place.parent
    for one in (folder, folder / "adapter"):  # there of a run, for its delta.safetensors
        if (one / Classifier.FILE).is_file():
            return Classifier.load(one, backbone)
    return None


def classifier_of(
    held: TrainedAdapter,
    adapter: str | os.PathLike[str] | tuple[Any, Any] | TrainedAdapter | None,
    *,
    head: str | None = None,
    label_names: Sequence[str] | None = None,
    suffix: str = "",
    max_length: int | None = None,
) -> Classifier:
    """Return what reads an adapter: what lies beside it, the checkpoint's own, or a head that is named.

    Args:
        held: the adapter.
        adapter: where it lies.
        head: a kind that needs no examples, in the place of what lies there.
        label_names: its classes.
        suffix: of a verbalizer.
        max_length: longer texts are cut here.

    Raises:
        ValueError: where there is none.
    """
    backbone: Any = held.backbone
    length = min(max_length or 64, backbone.max_length)
    if head is None:
        beside = classifier_beside(adapter, backbone) if isinstance(adapter, str | os.PathLike) else None
        if beside is not None:
            return beside
        if backbone.classifier is None:
            raise ValueError(
                f"no {Classifier.FILE} lies beside the adapter, and its base has no classifier: give "
                "head='label-words', and label_names."
            )
        config = backbone.model.config
        head, label_names = "own", label_names or [config.id2label[i] for i in range(config.num_labels)]
    if not label_names:
        raise ValueError(f"head={head!r}: needs label_names, one a class.")
    return Classifier.made(head, backbone, label_names, suffix=suffix, max_length=length)
