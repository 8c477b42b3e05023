"""What `test_parallel.py` runs in one process and in two: trainings, failures, and a study."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from squares import SCOPE, Squares, Study
from tiny_models import tiny
from tiny_problems import copy_task, toy_problem, toy_task

from deltatheory.deltas import make_delta
from deltatheory.problems import GenerationProblem
from deltatheory.training import parallel
from deltatheory.training.trainer import Training, train
from experiments.runner import Accelerated, run


def texts():
    """Return a problem of generation with targets of one and of two words."""
    task, backbone = copy_task(), tiny("gpt2")
    targets = tuple(t if i % 2 else t[0] for i, t in enumerate(task.train.targets))
    task = replace(task, train=replace(task.train, targets=targets))
    return GenerationProblem(backbone, task, make_delta("lora", backbone, r=2), max_new_tokens=3, check=False)


PROBLEMS = {
    "lora": lambda: toy_problem("lora", r=2),
    "in place": lambda: toy_problem("subspace", d=8),
    "generation": texts,
    "a share is empty": lambda: toy_problem("layernorm", task=toy_task(train=2)),
}


def error(work):
    try:
        work()
    except (FloatingPointError, RuntimeError, ValueError) as found:
        return f"{type(found).__name__}: {found}"


def fails(rank, failure):
    """Return the error of a batch that goes wrong in one of the processes."""
    problem = toy_problem("bitfit")
    own = problem.mean_with_gradient

    def broken(*arguments):
        if parallel.processes()[0] == rank:
            raise failure
        return own(*arguments)

    problem.mean_with_gradient = broken
    return error(lambda: parallel.loss_and_gradient(problem, problem.delta.initial(), [0, 1, 2, 3]))


def only_first():
    if not parallel.is_first():
        raise AssertionError("work of the first process alone")
    raise ValueError("no")


def watch(problem, seen):
    """Note how many training examples each batch has in this process."""
    own = problem.batch

    def batch(split, indices):
        if split is problem.train:
            seen.append(len(indices))
        return own(split, indices)

    problem.batch = batch


def main(out):
    engine = Accelerated("cpu")
    found = {}
    for name, make in PROBLEMS.items():
        problem, seen = make(), []
        watch(problem, seen)
        size = 1 if name == "a share is empty" else 5  # 5 is uneven for two processes
        training = Training(steps=4, batch_size=size, learning_rate=1e-2, evaluate_every=2, clip=1.0)
        result = train(problem, training, checkpoint=out / name / f"{parallel.processes()[0]}.safetensors")
        found[name] = {
            key: getattr(result, key) for key in ("delta", "losses", "dev", "test", "train_accuracy")
        }
        found[name] |= {"passes": result.passes, "largest": max(seen, default=0)}
    found["errors"] = [
        fails(1, FloatingPointError("the loss became nan: look")),
        fails(1, RuntimeError("out of memory")),
        error(lambda: parallel.from_first(only_first)),
    ]
    torch.save(found, out / f"{parallel.processes()[0]}.pt")
    if not engine.leads:
        engine.follow(Squares())
        return
    place = Squares()
    place.start()
    run(Study(), SCOPE, out / "study", place, engine, say=lambda _: None)
    engine.dismiss()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
