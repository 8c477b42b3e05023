"""Final scores of the main methods on many tasks.

Of most backbones the tasks are drawn by lot. Those of the language model on board, of this study and of
`convergence`, `combinations` and `dimension` beside it, are `LANGUAGE_TASKS` and `LANGUAGE_ANSWERS`, written
down before any of its trainings: short texts of five categories, one of the calibration half, on whose dev
scores the rates are tuned; for generation those where the frozen model is far from right (ROUGE-L of 60 test
examples, in their order: .13, .04, .00, .01, .00; the last was not looked at). They are run in this order,
as many as two cores have time for:

    python -m experiments run performance --data DATA --models smollm2 --out FOLDER --tasks NAMES
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deltatheory.report.page import COLOURS
from experiments.page import Findings, Table, drawing
from experiments.scope import Scope
from experiments.studies.methods import (
    LANGUAGE_MODEL,
    budget,
    by_family,
    check_order,
    counted,
    examples,
    frozen,
    grid,
    joint,
    methods,
    order_sentences,
    seeds_run,
    table_of,
    tuned,
    with_interval,
)
from experiments.trial import Known, Trial

CLAIM = "On average fine-tuning > LoRA > adapter > prefix > prompt; single tasks differ"
SOURCE = "Ding et al. 2023, section 4.1"
TASKS = ("classification", "generation")
ORDER = ("fine-tuning", "LoRA", "adapter", "prefix", "prompt")
LANGUAGE_TASKS = (
    "classics/trec6",
    "classics/sst2_glue_phrases",
    "more_tasks/blimp_principle_A_c_command",
    "classics/mpqa",
    "natural_instructions/nic_e2e_eatType",
    "more_tasks/persona_extraversion",
)
LANGUAGE_ANSWERS = (
    "natural_instructions/ni_task1339_peixian_equity_evaluation_corpus_text_completion",
    "natural_instructions/ni_task1411_dart_subject_identification",
    "natural_instructions/ni_task1508_wordnet_antonyms",
    "natural_instructions/ni_task1412_web_questions_question_answering",
    "natural_instructions/ni_task095_conala_max_absolute_value",
    "natural_instructions/ni_task132_dais_text_modification",
)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield all methods on all tasks."""
    yield from grid(scope, methods, known)


def findings(scope: Scope, known: Known) -> Findings:
    """Average scores and the claimed order."""
    verdicts, found, numbers, tables, figures = [], [], {}, [], {}
    for model in scope.models:
        labels = [method.label for method in methods(model)]
        tasks, scores = table_of(scope, model, methods(model), known, lambda result, _: result["test"] or 0.0)
        if not tasks:
            found.append(f"{model}: no task is complete.")
            continue
        families = by_family(tasks, scores)
        order = check_order(families, labels, ORDER)
        verdicts.append(order.verdict)
        means = families.mean(0)
        start = np.array([(known.get(frozen(model, task)) or {}).get("test", np.nan) for task in tasks])
        said = ", ".join(f"{labels[i]} {means[i]:.3f}" for i in np.argsort(-means))
        best = [labels[i] for i in scores.argmax(1)]
        wins = {label: best.count(label) for label in labels if label in best}
        seeds = seeds_run(scope, model, methods(model), tasks, known)
        untrained = by_family(tasks, start[:, None]).mean()
        found.append(f"{model}, {counted(tasks)}, {seeds}: {said}; frozen {untrained:.3f}.")
        found += order_sentences(model, order)
        found.append(f"{model}: best on {', '.join(f'{n} tasks {label}' for label, n in wins.items())}.")
        rates = {m.label: tuned(scope, model, m, known)[0] for m in methods(model)}
        numbers[model] = {
            "tasks": len(tasks),
            "families": len(families),
            "mean": dict(zip(labels, means.tolist(), strict=True)),
            "wins": wins,
        }
        tables.append(
            Table(
                f"{model}: mean test score with its 95 % interval over families",
                ["method", "learning rate", "score", "best on"],
                [[x, rates[x], with_interval(families[:, i]), wins.get(x, 0)] for i, x in enumerate(labels)],
            )
        )
        tables.append(_categories(model, labels, tasks, scores))
        rows = [
            [t.name, t.category, f, *row]
            for t, f, row in zip(tasks, start.tolist(), scores.tolist(), strict=True)
        ]
        tables.append(Table(f"{model}: every task", ["task", "category", "frozen", *labels], rows))
        with drawing(7, 3) as (figure, axes):
            axes.plot(
                np.repeat(range(len(labels)), len(tasks)),
                (scores - start[:, None]).T.ravel(),
                ".",
                color=COLOURS["faint"],
            )
            axes.plot(
                range(len(labels)),
                (scores - start[:, None]).mean(0),
                "_",
                ms=24,
                mew=3,
                color=COLOURS["measured"],
            )
            axes.set_xticks(range(len(labels)), labels)
            axes.set_ylabel("score gained over the frozen model")
        figures[f"{model}: what each method gains on each task, and its mean"] = figure
    model = scope.models[0]
    named = "named before any training, as many as two cores had time for"
    drawn = named if model == LANGUAGE_MODEL else "drawn by lot, families in turn"
    ran = RAN.format(**examples(model, scope.tasks[0]), **budget(model), tasks=drawn)
    return Findings(joint(verdicts), ran, found, numbers, tables, figures)


RAN = (
    "Every method has the same {steps} steps of {batch_size} examples (at most {train} training examples, "
    "{max_length} tokens, AdamW, dev score on {dev} examples every {evaluate_every} steps, the best δ there "
    "is tested on at most {test}). Scores are accuracies, or ROUGE-L of greedy answers where a task asks for "
    "text. The learning rate is tuned by dev score on at most four calibration tasks for each backbone, all "
    "methods over the same rates. Tasks are {tasks}."
)


def _categories(model: str, labels: list[str], tasks: list, scores: np.ndarray) -> Table:
    groups: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        groups.setdefault(task.category, []).append(i)
    rows: list[list[Any]] = []
    for category, at in sorted(groups.items()):
        means = scores[at].mean(0)
        order = " > ".join(labels[i] for i in np.argsort(-means))
        rows.append([category, len(at), order, float(means.max()), float(means.min())])
    return Table(f"{model}: by category", ["category", "tasks", "order", "best mean", "worst mean"], rows)
