"""Conditional generation: a language model answers a source text with a target text."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch, CachedTexts, Edit
from deltatheory.deltas import Delta, WithHead
from deltatheory.problems.base import Problem
from deltatheory.problems.greedy import greedy_answers
from deltatheory.problems.tokens import NO_ANSWER, answer_tokens, answered, batch_of, check_suffix, suffixed
from deltatheory.tasks import Examples, Task

__all__ = ["GenerationProblem", "GenerationSplit", "scores", "token_f1"]

_EXACT = 1024  # parts of a pass: their sums are the same in any order
_CHUNK = 32


@dataclass(frozen=True, eq=False)
class GenerationSplit:
    """Examples as token numbers: sources with the suffix, targets with the end-of-text token, and lengths."""

    examples: Examples
    sources: list[list[int]]
    targets: list[list[int]]
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.examples)


class GenerationProblem(Problem):
    """loss(δ) = mean of -log p(target token | source, target so far; ψ(δ)), and greedy answers.

    A target follows its source after a space, or in an encoder-decoder the start of its decoder
    (`Backbone.start`), and ends with the end-of-text token.

    Args:
        backbone: causal or an encoder-decoder, with lm_head; frozen and prepared.
        task: generation.
        delta: what is tuned.
        suffix: put between source and target (" Answer:").
        max_length: of source, suffix and target together, in tokens; in an encoder-decoder of source and
            suffix.
        max_new_tokens: of the target and of an answer; sources are cut to leave room for them.
        check: switch the self-check off where the same backbone and kind of delta have just passed it.

    Raises:
        ValueError: for a classification task, a backbone without lm_head or end-of-text token, a suffix that
            ends in white space, lengths that leave no room for the source, or answers that are longer than
            the decoder of an encoder-decoder takes.
        ImportError: without `rouge-score`.
        DerivativeError: if the derivatives are not right; the message has the remedy.
    """

    metric: ClassVar[str] = "rouge_l"

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        delta: Delta,
        *,
        suffix: str = "",
        max_length: int = 64,
        max_new_tokens: int = 16,
        check: bool = True,
    ) -> None:
        if task.kind != "generation":
            raise ValueError(
                f"task={task.name!r} is a {task.kind} task: allowed is generation; "
                "take ClassificationProblem."
            )
        if isinstance(delta, WithHead):
            raise ValueError(f"delta has a trained head ({delta.head!r}): generation has none.")
        backbone.check_on_one_device("generation")
        self.suffix, self._suffix = suffix, check_suffix(backbone, suffix)
        if backbone.tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {backbone.name!r} has no eos_token to end an answer: set it.")
        self.max_new_tokens = max_new_tokens
        self._room = min(max_length, backbone.max_length) - len(self._suffix)
        if backbone.kind == "encoder-decoder":
            most = backbone.max_length - len(backbone.start) + 1
            if not 1 <= max_new_tokens <= most:
                raise ValueError(
                    f"max_new_tokens={max_new_tokens}: must lie in 1..{most}, what the decoder of "
                    f"{backbone.name!r} takes behind its start."
                )
        else:
            self._room -= max_new_tokens
        if max_new_tokens < 1 or self._room < 1:
            raise ValueError(
                f"max_new_tokens={max_new_tokens}: must be at least 1 and leave room for the source within "
                f"max_length={min(max_length, backbone.max_length)}."
            )
        _rouge_scorer()  # fail before training, not at the first evaluation
        super().__init__(backbone, task, delta, max_length)
        if check:
            self.check()

    def _split(self, examples: Examples) -> GenerationSplit:
        end = self.backbone.tokenizer.eos_token_id
        sources, _ = suffixed(self.backbone, examples, self._room + len(self._suffix), self._suffix)
        targets = [
            [*answer_tokens(self.backbone, text, self.suffix), end][: self.max_new_tokens]
            for text in examples.targets or ()
        ]
        lengths = np.array([len(s) + len(t) for s, t in zip(sources, targets, strict=True)])
        return GenerationSplit(examples, sources, targets, lengths)

    def identity(self) -> dict:
        """Return what makes two problems the same."""
        return {**super().identity(), "suffix": self.suffix, "max_new_tokens": self.max_new_tokens}

    def batch(self, split: GenerationSplit, indices: Sequence[int]) -> tuple[Batch, Int[Tensor, "B T"]]:
        """Return sources with their targets, and at each token the target token that follows, or -100."""
        sources, targets = ([which[i] for i in indices] for which in (split.sources, split.targets))
        return answered(self.backbone, sources, targets)

    def outputs(
        self, delta: Float[Tensor, " m"] | None, batch: Batch, labels: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "n V"], Int[Tensor, " n"]]:
        """Return the logits of all target tokens, and the tokens."""
        edit = Edit() if delta is None else self._edit(delta)
        return self._next_tokens(batch, labels != NO_ANSWER, edit), labels[labels != NO_ANSWER]

    def _next_tokens(self, batch: Batch, where: Tensor, edit: Edit) -> Float[Tensor, "n V"]:
        """Return the logits of the next token at chosen places."""
        with self._precision():
            hidden = self.backbone.hidden_states(batch, edit)[where]
            return self.backbone.vocabulary_logits(hidden, edit.parameters).to(self.backbone.wide_dtype)

    @torch.no_grad()
    def predict(self, delta: Float[Tensor, " m"], split: GenerationSplit) -> list[str]:
        """Return the greedy answers to a whole split.

        A delta that writes in place leaves θ(δ) in the model: call `restore` at the end.

        Raises:
            FloatingPointError: if a logit is not finite.
        """
        edit = self._placed(delta)
        answers: list[list[int]] = [[] for _ in split.sources]
        order = np.argsort(split.lengths, kind="stable")
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK].tolist()
            with self._precision():
                for i, ids in zip(rows, self._greedy([split.sources[i] for i in rows], edit), strict=True):
                    answers[i] = ids
        return [self.backbone.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]

    def _greedy(self, sources: Sequence[Sequence[int]], edit: Edit) -> list[list[int]]:
        """Return the answers to sources, each to its end or to `max_new_tokens`."""
        backbone = self.backbone
        texts = CachedTexts(backbone, batch_of(backbone, sources), edit)
        self.count(len(sources), forward=1.0)
        answers = greedy_answers(
            texts,
            lambda last: backbone.vocabulary_logits(last, edit.parameters).to(backbone.wide_dtype),
            backbone.tokenizer.eos_token_id,
            self.max_new_tokens,
        )
        for step in range(1, max(map(len, answers))):  # of a pass over each text that is still read
            both = zip(sources, answers, strict=True)
            shares = sum(1 / (len(source) + step) for source, answer in both if len(answer) > step)
            self.count(round(_EXACT * shares) / _EXACT, forward=1.0)
        return answers

    @torch.no_grad()
    def evaluate(self, delta: Float[Tensor, " m"], split: GenerationSplit) -> dict[str, float]:
        """Return exact match, ROUGE-L, token F1 and the mean loss a target token; as `predict` otherwise."""
        found = scores(self.predict(delta, split), split.examples.targets or ())
        edit = self._placed(delta)
        order = np.argsort(split.lengths, kind="stable")
        loss, tokens = 0.0, 0
        for start in range(0, len(order), _CHUNK):
            batch, labels = self.batch(split, order[start : start + _CHUNK].tolist())
            where = labels != NO_ANSWER
            logits = self._next_tokens(batch, where, edit)
            loss += float(self.loss_function.total(logits, labels[where]))
            tokens += int(where.sum())
        self.count(len(split), forward=1.0)
        return {**found, "loss": loss / tokens}


def scores(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Return the mean scores of answers: "exact_match" up to outer white space, "rouge_l", "token_f1".

    ROUGE-L is the F-measure of the longest common subsequence of words (Lin 2004), by `rouge-score` without
    stemming.

    Raises:
        ImportError: without `rouge-score`.
    """
    scorer = _rouge_scorer()
    both = list(zip(answers, targets, strict=True))
    return {
        "exact_match": mean(float(a.strip() == t.strip()) for a, t in both),
        "rouge_l": mean(scorer.score(t, a)["rougeL"].fmeasure for a, t in both),
        "token_f1": mean(token_f1(a, t) for a, t in both),
    }


def token_f1(answer: str, target: str) -> float:
    """Return the F1 of shared words without case, punctuation and articles (Rajpurkar et al. 2016, SQuAD)."""
    ours, theirs = (Counter(_words(text)) for text in (answer, target))
    shared = (ours & theirs).total()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * shared / (ours.total() + theirs.total())


def _words(text: str) -> list[str]:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ImportError(
            "scores of generated texts need rouge-score: pip install 'deltatheory[generation]'."
        ) from error
    return RougeScorer(["rougeL"], use_stemmer=False)
