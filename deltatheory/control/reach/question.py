"""What must come first after each text: the label's word or class, the text's own next token, or a lot."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.deltas.prompt import ordinary_tokens, start_embeddings
from deltatheory.problems import NOT_FINITE, Setup
from deltatheory.problems.heads import Head, make_head
from deltatheory.problems.tokens import (
    answer_tokens,
    batch_of,
    check_suffix,
    check_template,
    suffixed,
    token_rows,
)
from deltatheory.results import configuration_hash

__all__ = ["AMONG", "Question", "check_goal", "pose"]

AMONG = ("vocabulary", "classes")
_GOAL = re.compile(r"label|next|top:\d+|word:.+", re.DOTALL)
_CHUNK = 64


@dataclass(frozen=True, eq=False)
class Question:
    """Texts, and for each the output that must come first.

    Attributes:
        backbone: frozen.
        rows: the texts as token numbers, with what is put after them.
        types: the segment of each token.
        read: (last hidden states, their batch) ↦ logits, of the judged position alone.
        among: "vocabulary" or "classes": what the logits are of.
        targets: number of the output that must come first after each text.
        names: of the targets.
        words: the tokens that say each target.
        remarks: what to know of how the targets were made.
        passes: forward passes over single texts that making them took.
        about: what else makes it the question that it is, in plain values.
    """

    backbone: Backbone
    rows: Sequence[list[int]]
    types: Sequence[list[int]]
    read: Callable[[Tensor, Batch], Tensor]
    among: str
    targets: tuple[int, ...]
    names: tuple[str, ...]
    words: tuple[tuple[int, ...], ...]
    remarks: tuple[str, ...] = ()
    passes: int = 0
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def name(self) -> str:
        """What names it in a log: its content, since all texts in every row would be much to read."""
        about = {"among": self.among, "targets": list(self.targets), **self.about}
        return configuration_hash(
            {
                "backbone": self.backbone.provenance,
                "rows": list(self.rows),
                "types": list(self.types),
                **about,
            }
        )

    @cached_property
    def vocabulary(self) -> Int[Tensor, " n"]:
        """The tokens that a prompt may have."""
        return ordinary_tokens(self.backbone)

    @cached_property
    def embeddings(self) -> Float[Tensor, "V H"]:
        """The word embeddings of all tokens up to the last of them."""
        return start_embeddings(self.backbone, torch.arange(int(self.vocabulary[-1]) + 1))

    def batch(self, chosen: Sequence[int]) -> Batch:
        """Return some of the texts."""
        return batch_of(self.backbone, [self.rows[i] for i in chosen], [self.types[i] for i in chosen])

    def wanted(self, chosen: Sequence[int]) -> Int[Tensor, " n"]:
        """Return the targets of some of the texts."""
        return torch.tensor([self.targets[i] for i in chosen], device=self.backbone.device)

    def logits(self, batch: Batch, edit: Edit | None = None) -> Float[Tensor, "n C"]:
        """Return the logits of texts under an edit."""
        return self.read(self.backbone.hidden_states(batch, edit), batch)

    @torch.no_grad()
    def ranks(self) -> tuple[list[int], list[float]]:
        """Return the rank of each target without control, 1 the first, and its margin over all others.

        Raises:
            FloatingPointError: if a logit is not finite.
        """
        ranks, found = [], []
        for first in range(0, len(self), _CHUNK):
            chosen = range(len(self))[first : first + _CHUNK]
            logits, wanted = self.logits(self.batch(chosen)), self.wanted(chosen)
            if not logits.isfinite().all():
                raise FloatingPointError(f"the logits are not finite: {NOT_FINITE}")
            ranks += (logits > logits.gather(1, wanted[:, None])).sum(1).add(1).tolist()
            found += margins(logits, wanted).tolist()
        return ranks, found


def margins(logits: Float[Tensor, "n C"], wanted: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return z_y - max_{c≠y} z_c.

    >>> margins(torch.tensor([[1.0, 3.0, 2.5]]), torch.tensor([1]))
    tensor([0.5000])
    """
    others = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
    return logits.gather(1, wanted[:, None])[:, 0] - others


def check_goal(goal: str, among: str | None) -> None:
    """Refuse goals that there are not, before anything is loaded.

    Raises:
        ValueError: for another goal than "label", "next", "top:R" and "word:TEXT", an R below 1, or a token
            of the vocabulary as goal among classes.
    """
    if not _GOAL.fullmatch(goal):
        raise ValueError(f"goal={goal!r}: allowed are 'label', 'next', 'top:R' and 'word:TEXT'.")
    kind, _, rest = goal.partition(":")
    if kind == "top":
        check_number("goal='top:R', R", int(rest), whole=True, least=1)
    if among not in (None, *AMONG):
        raise ValueError(f"among={among!r}: allowed are 'vocabulary' and 'classes'.")
    if among == "classes" and goal != "label":
        raise ValueError(f"goal={goal!r}: is a token of the vocabulary; among='classes' takes 'label'.")


def pose(setup: Setup, goal: str = "label", among: str | None = None) -> Question:
    """Ask for the test texts of a setup.

    Args:
        setup: model, task, suffix, head.
        goal: what must come first. "label": the first token of the word of the text's label, or its class;
            "next": the text's own last token, which is held back; "top:R": one of the R that come first
            without control, by lot; "word:TEXT": one token for all texts.
        among: "vocabulary" (all tokens, by lm_head) or "classes" (by the setup's head); `None` takes the
            vocabulary where the model reads words there.

    Raises:
        ValueError: as `check_goal`; for labels where the task has none; a word that is several tokens or
            none of the vocabulary; a text's next token where the model does not read from left to right, or
            every text has one token.
    """
    check_goal(goal, among)
    backbone, task, kind = setup.backbone, setup.task, goal.partition(":")[0]
    backbone.check_on_one_device("reach")
    if kind == "label" and task.kind != "classification":
        raise ValueError(
            f"task={task.name!r} is a {task.kind} task, which has no labels: take goal='next', 'top:R' or "
            "'word:TEXT'."
        )
    if among is None:
        among = AMONG[0] if _has_words(backbone, setup.suffix) else AMONG[1]
        check_goal(goal, among)
    if among == "classes":
        return _classes(setup)
    if kind == "next":
        return _next(setup)
    return _of_vocabulary(setup, goal)


def _has_words(backbone: Backbone, suffix: str) -> bool:
    mask = str(backbone.tokenizer.mask_token)
    masked = backbone.kind != "encoder" or "[MASK]" in suffix or mask in suffix
    return backbone.lm_head is not None and masked


def _classes(setup: Setup) -> Question:
    setup.check_head()
    backbone, task, head = setup.backbone, setup.task, setup.head
    if head.kind == "own" and backbone.kind == "encoder-decoder":
        raise ValueError(
            f"head='own' of the encoder-decoder {backbone.name!r} reads a text twice, and a prompt stands "
            "before one reading alone: take head='verbalizer'."
        )
    rows, types = suffixed(backbone, task.test, setup.max_length, head.suffix)
    labels = task.test.labels or ()
    tokens = [
        tuple(backbone.tokenizer(word, add_special_tokens=False)["input_ids"]) for word in task.label_words
    ]
    return Question(
        backbone,
        rows,
        types,
        partial(_read_classes, backbone, head),
        "classes",
        tuple(labels),
        tuple(task.label_names[c] for c in labels),
        tuple(tokens[c] for c in labels),
        about={**head.identity(), "contents": _contents(head)},
    )


def _contents(head: Head) -> str:
    """Name a head by its tensors, which other training examples may have made."""
    tensors = [x for _, x in sorted(vars(head).items()) if isinstance(x, Tensor)]
    return sha256(b"".join(x.detach().cpu().double().numpy().tobytes() for x in tensors)).hexdigest()[:16]


def _read_classes(backbone: Backbone, head: Head, hidden: Tensor, batch: Batch) -> Tensor:
    return head(backbone.pool(hidden, batch, head.pooling)).to(backbone.wide_dtype)


def _read_vocabulary(backbone: Backbone, hidden: Tensor, batch: Batch) -> Tensor:
    pooling = "mask" if backbone.kind == "encoder" else "last"
    return backbone.vocabulary_logits(backbone.pool(hidden, batch, pooling))


def _next(setup: Setup) -> Question:
    backbone = setup.backbone
    if backbone.kind != "causal":
        raise ValueError(
            f"goal='next': {backbone.name!r} ({backbone.kind}) does not read texts from left to right; "
            "take a causal model."
        )
    if setup.suffix:
        raise ValueError(f"suffix={setup.suffix!r}: goal='next' is the text's own token, and takes none.")
    check_suffix(backbone, "")
    special = set(backbone.tokenizer.all_special_ids)
    rows = []
    for row in token_rows(backbone, setup.task.test, setup.max_length):
        while row and row[-1] in special:
            row = row[:-1]
        rows.append(row)
    kept = [row for row in rows if len(row) > 1]
    if not kept:
        raise ValueError(f"task={setup.task.name!r}: every text is one token; goal='next' needs two.")
    left = len(rows) - len(kept)
    remarks = (f"{left} of {len(rows)} texts have one token, and are left out.",) if left else ()
    tokens = tuple(row[-1] for row in kept)
    return _vocabulary(backbone, [row[:-1] for row in kept], None, tokens, remarks=remarks)


def _of_vocabulary(setup: Setup, goal: str) -> Question:
    backbone, task, (kind, _, rest) = setup.backbone, setup.task, goal.partition(":")
    suffix, remarks = setup.suffix, ()
    if backbone.kind == "encoder":
        after, before = check_template(backbone, suffix)
    else:
        after, before = check_suffix(backbone, suffix), suffix
    rows, types = suffixed(backbone, task.test, setup.max_length, after)
    if kind == "top":
        asked = _vocabulary(backbone, rows, types, (0,) * len(rows))
        drawn = _vocabulary(backbone, rows, types, _by_lot(asked, int(rest), setup.seed))
        return replace(drawn, passes=len(rows))
    if kind == "word":
        tokens = answer_tokens(backbone, rest, before)
        if len(tokens) > 1:
            parts = backbone.tokenizer.convert_ids_to_tokens(tokens)
            raise ValueError(
                f"goal={goal!r}: is {len(tokens)} tokens to {backbone.name!r}, {parts}, and one can come "
                "first: give a word of one."
            )
        said = [tuple(tokens)] * len(rows)
    else:
        make_head("verbalizer", backbone, task, max_length=setup.max_length, suffix=suffix)  # refuses words
        words = [tuple(answer_tokens(backbone, word, before)) for word in task.label_words]
        several = [word for word, ids in zip(task.label_words, words, strict=True) if len(ids) > 1]
        if several:
            remarks = (f"Label words of several tokens count by their first: {', '.join(several)}.",)
        said = [words[label] for label in task.test.labels or ()]
    unknown = backbone.tokenizer.unk_token_id
    if any(ids[0] == unknown for ids in said):
        raise ValueError(f"goal={goal!r}: is not in the vocabulary of {backbone.name!r}; take another.")
    firsts = tuple(ids[0] for ids in said)
    return _vocabulary(backbone, rows, types, firsts, tuple(said), remarks)


def _vocabulary(
    backbone: Backbone,
    rows: list[list[int]],
    types: list[list[int]] | None,
    tokens: tuple[int, ...],
    words: tuple[tuple[int, ...], ...] | None = None,
    remarks: tuple[str, ...] = (),
) -> Question:
    return Question(
        backbone,
        rows,
        types or [[0] * len(row) for row in rows],
        partial(_read_vocabulary, backbone),
        "vocabulary",
        tokens,
        tuple(backbone.tokenizer.decode([token]) for token in tokens),
        words or tuple((token,) for token in tokens),
        remarks,
    )


@torch.no_grad()
def _by_lot(question: Question, most: int, seed: int) -> tuple[int, ...]:
    """Return for each text one of the tokens that come first without control, or of all."""
    drawn = []
    for i in range(len(question)):
        logits = question.logits(question.batch([i]))[0]
        first = logits.topk(min(most, len(logits))).indices.tolist()
        drawn.append(first[int(np.random.default_rng((seed, i)).integers(len(first)))])
    return tuple(drawn)
