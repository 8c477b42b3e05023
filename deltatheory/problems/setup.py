"""A problem without its delta: backbone, task, frozen head, limits and seed, from names or objects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from deltatheory.backbones import Backbone, load_backbone, wrap_model
from deltatheory.deltas import Delta, WithHead, check_options, make_delta, seeded, split_size
from deltatheory.problems.base import Problem
from deltatheory.problems.classification import ClassificationProblem
from deltatheory.problems.generation import GenerationProblem
from deltatheory.problems.heads import Head, check_kind, make_head
from deltatheory.tasks import Task, load_task

__all__ = ["Setup"]

_MAX_LENGTH = 64


class Setup:
    """What all deltas of a comparison share; `problem(delta)` binds one of them.

    Nothing is loaded before it is asked for, and then once. The seed draws the examples, a random head and
    whatever a delta draws. A setup does not change; `replace` makes another one.

    Args:
        model: a backbone, a pair of a `transformers` model and its tokenizer, or what `load_backbone` takes:
            a name, or its arguments, as in {"name": "minilm", "dtype": "bfloat16"}.
        task: a task, or what `load_task` takes: a name, a table in memory, or its arguments, as in
            {"source": "my.csv", "label": "stars"}.
        head: a key of `HEADS`, or a head made before (at θ₀), for classification.
        suffix: put after each text, before the label word (verbalizer; of an encoder with its mask, as in
            " It was [MASK].", and after the first text of a pair) or the target (generation).
        train_examples: training examples to use at most, a stratified draw; `None` for all, in their order.
        test_examples: the same of test examples.
        max_length: longer texts are cut here, in tokens; by default at 64, or at the model's limit.
        seed: of all draws.
        device: where a model that is loaded by name goes: "cpu", "cuda", ...

    Raises:
        ValueError: for an unknown head, or a number out of range.
    """

    def __init__(
        self,
        model: Any = "minilm",
        task: Any = "stdlib-topics",
        *,
        head: str | Head = "label-words",
        suffix: str = "",
        train_examples: int | None = None,
        test_examples: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if isinstance(head, str):
            check_kind(head)
        least = {"train_examples": (train_examples, 1), "test_examples": (test_examples, 1)}
        for name, (value, low) in {**least, "max_length": (max_length, 1), "seed": (seed, 0)}.items():
            if value is not None and not value >= low:
                raise ValueError(f"{name}={value}: must be at least {low}.")
        named = isinstance(task, str | os.PathLike) or (isinstance(task, Mapping) and "source" in task)
        if not named:
            task = load_task(task)
        if isinstance(model, tuple):
            model = _at_hand(*model)
        elif not isinstance(model, str | Mapping | Backbone):
            raise ValueError(
                f"model={type(model).__name__}: must be a name, a Backbone, or a pair of a transformers "
                "model and its tokenizer."
            )
        self._given: dict[str, Any] = {
            "model": model,
            "task": task,
            "head": head,
            "suffix": suffix,
            "train_examples": train_examples,
            "test_examples": test_examples,
            "max_length": max_length,
            "seed": seed,
            "device": device,
        }

    @classmethod
    def of(cls, given: Setup | Problem | Mapping[str, Any] | None) -> Setup:
        """Return the setup that is given, made of the arguments that are, or behind a built problem.

        Raises:
            ValueError: for a problem that holds more than a setup: of generation, or with another loss.
        """
        if isinstance(given, Setup):
            return given
        if not isinstance(given, Problem):
            return cls(**(given or {}))
        loss = given.loss_function.name
        if not isinstance(given, ClassificationProblem) or loss != "cross-entropy":
            raise ValueError(
                f"problem: a {type(given).__name__} with loss={loss!r} holds more than a setup does; "
                "allowed is classification with cross-entropy."
            )
        about = {"head": given.head, "max_length": given.max_length, "seed": given.seed}
        return cls(given.backbone, given.task, **about)

    def replace(self, **changes: Any) -> Setup:
        """Return a setup with other arguments; what stays and was loaded is not loaded again."""
        new = Setup(**{**self._given, **changes})
        for name, made_of in _MADE_OF.items():
            if name in vars(self) and not changes.keys() & made_of:
                vars(new)[name] = vars(self)[name]
        return new

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "_given":
            raise AttributeError(f"{name}: a setup does not change; take setup.replace({name}=...).")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"Setup({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    def settings(self) -> dict[str, Any]:
        """Return the arguments in plain values: objects by their names; nothing is loaded."""
        return {k: getattr(v, "name", None) or getattr(v, "kind", v) for k, v in self._given.items()}

    @property
    def model(self) -> str | Mapping[str, Any] | Backbone:
        """Return the model as it was given: by name, with other arguments, or as a backbone."""
        return self._given["model"]

    @property
    def seed(self) -> int:
        """Return the seed of all draws."""
        return self._given["seed"]

    @property
    def suffix(self) -> str:
        """Return what is put after each text."""
        return self._given["suffix"]

    @property
    def device(self) -> str:
        """Return where a model that is loaded by name goes."""
        return self._given["device"]

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen model."""
        model = self._given["model"]
        if isinstance(model, Backbone):
            return model
        named: Any = {"name": model} if isinstance(model, str) else model
        return load_backbone(**{"device": self.device, **named})

    @cached_property
    def whole_task(self) -> Task:
        """The task without limits."""
        task = self._given["task"]
        return load_task(**task) if isinstance(task, Mapping) else load_task(task)

    @cached_property
    def task(self) -> Task:
        """The task within its limits."""
        task = self.whole_task
        limits = {"train": self._given["train_examples"], "test": self._given["test_examples"]}
        if set(limits.values()) == {None}:
            return task
        most = {name: n and min(n, len(getattr(task, name))) for name, n in limits.items()}
        return task.limited(**most, seed=self.seed)

    @property
    def max_length(self) -> int:
        """The longest text, in tokens, that is not cut.

        Raises:
            ValueError: if more was asked for than the backbone takes.
        """
        asked, limit = self._given["max_length"], self.backbone.max_length
        if asked is None:
            return min(_MAX_LENGTH, limit)
        if asked > limit:
            raise ValueError(f"max_length={asked}: {self.backbone.name!r} takes at most {limit} tokens.")
        return asked

    def check_head(self) -> None:
        """Refuse a suffix that the head of a classification task does not take, before anything is loaded.

        Raises:
            ValueError: for a suffix where the head is none that reads words after it.
        """
        if isinstance(self._given["head"], str):
            check_kind(self._given["head"], self._given["suffix"])

    @cached_property
    def head(self) -> Head:
        """The frozen head of a classification task, made at θ₀."""
        head, suffix = self._given["head"], self._given["suffix"]
        if not isinstance(head, str):
            return head
        about = {"seed": self.seed, "max_length": self.max_length, "suffix": suffix}
        return make_head(head, self.backbone, self.task, **about)

    def delta(self, delta: str | Delta, **options: Any) -> Delta:
        """Return a delta on the backbone; one that draws draws with the seed.

        Args:
            delta: a key of `deltatheory.deltas.DELTAS`, with its size after a colon where it has one
                ("lora:4"); a delta that is made comes back as it is.
            options: further arguments of its class.

        Raises:
            ValueError: for an unknown name or option, before anything is loaded.
        """
        if isinstance(delta, Delta):
            return delta
        name, size = split_size(delta)
        chosen = seeded(name, {**size, **options}, self.seed)
        check_options(name, chosen)
        return make_delta(name, self.backbone, **chosen)

    def problem(
        self,
        delta: str | Delta,
        options: Mapping[str, Any] | None = None,
        *,
        check: bool = True,
        train_head: bool = False,
        max_new_tokens: int = 16,
    ) -> Problem:
        """Bind a delta: classification or generation, as the task is.

        Args:
            delta: as `delta` takes it.
            options: further arguments of its class.
            check: switch the self-check off where the same backbone and kind of delta have just passed it.
            train_head: join the head's parameters to δ (`WithHead`): both are tuned.
            max_new_tokens: of targets and answers of a generation task.

        Raises:
            ValueError: for `train_head` where there is no head of the task's own, and as `delta`, `make_head`
                and the problems.
            DerivativeError: if the backbone's derivatives fail the self-check.
        """
        classes = self.task.kind == "classification"
        if classes:
            self.check_head()
        elif train_head:
            raise ValueError(f"train_head=True: {self.task.name!r} is a generation task, which has no head.")
        made = self.delta(delta, **(options or {}))
        if train_head:
            made = WithHead(made, self.head.kind, self.head.parameters())
        about: dict[str, Any] = {"max_length": self.max_length, "check": check}
        problem: Problem
        if classes:
            problem = ClassificationProblem(self.backbone, self.task, made, self.head, **about)
        else:
            about |= {"suffix": self._given["suffix"], "max_new_tokens": max_new_tokens}
            problem = GenerationProblem(self.backbone, self.task, made, **about)
        problem.seed = self.seed
        return problem

    def classification(
        self, delta: str | Delta, options: Mapping[str, Any] | None = None, *, check: bool = True
    ) -> ClassificationProblem:
        """Bind a delta to a task that must be classification; as `problem` otherwise."""
        problem = self.problem(delta, options, check=check)
        if not isinstance(problem, ClassificationProblem):
            raise ValueError(
                f"task={self.task.name!r} is a {self.task.kind} task: allowed is classification."
            )
        return problem


def _at_hand(model: Any, tokenizer: Any) -> Backbone:
    """Prepare a `transformers` model, in place."""
    if hasattr(model, "peft_config"):
        raise ValueError(
            "model is a PeftModel, which is a model and a delta: "
            "backbone, delta = from_peft(model, tokenizer=tokenizer, name='...') gives both."
        )
    return wrap_model(
        model, tokenizer, name=getattr(model.config, "_name_or_path", "") or type(model).__name__
    )


# What each part of a setup is made of: where none of it changes, a new setup keeps the part.
_MADE_OF = {
    "backbone": {"model", "device"},
    "whole_task": {"task"},
    "task": {"task", "train_examples", "test_examples", "seed"},
    "head": {
        "model",
        "device",
        "task",
        "train_examples",
        "test_examples",
        "seed",
        "head",
        "suffix",
        "max_length",
    },
}
