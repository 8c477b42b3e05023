"""A study of squares, for tests of the runner: quick trials in two waves, of which one fails."""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from deltatheory.results import ResultLog
from experiments.environment import Environment
from experiments.kinds import KINDS
from experiments.runner import LOG, Local, run
from experiments.scope import Scope, TaskInfo
from experiments.trial import Trial

CLAIM = "Squares are not negative"
SOURCE = "tests"
SCOPE = Scope(("line",), tuple(TaskInfo(f"{i}", "number", f"family {i}") for i in range(10)), (0, 1))


def square(trial, place):
    time.sleep(trial.settings["pause"])
    if (number := int(trial.task)) == 3:
        raise ValueError("3 is not liked")
    return {"square": number**2}


def root(trial, place):
    time.sleep(trial.settings["pause"])
    return {"root": trial.settings["of"] ** 0.5}


class Squares(Environment):
    """A place whose processes know the kinds of this module."""

    def start(self):
        KINDS.update(square=SimpleNamespace(run=square), root=SimpleNamespace(run=root))


class Deadly(Squares):
    """A place whose processes are killed at once."""

    def start(self):
        os.kill(os.getpid(), signal.SIGKILL)


def pair(task, seed, known, pause=0.0):
    first = Trial("square", "line", task.name, seed=seed, settings={"pause": pause})
    if (result := known.get(first)) is None:
        return first, None
    settings = {"of": result["square"], "pause": pause}
    return first, Trial("root", "line", task.name, seed=seed, settings=settings)


class Study:
    CLAIM, SOURCE = CLAIM, SOURCE

    def __init__(self, pause=0.0):
        self.pause = pause

    def trials(self, scope, known):
        for task in scope.tasks:
            for seed in scope.seeds:
                yield from filter(None, pair(task, seed, known, self.pause))

    def findings(self, scope, known):
        from experiments.page import Findings, Table  # the processes of the runner need no page

        squares = [known.get(pair(task, 0, known)[0]) for task in scope.tasks]
        values = [result["square"] for result in squares if result]
        table = Table("Squares", ["square"], [[v] for v in values])
        return Findings("agrees", "Squares.", [f"{len(values)} squares."], {"sum": sum(values)}, [table])


def results(folder):
    """Return hash ↦ result, of trials that did not fail."""
    rows = ResultLog(folder / LOG).rows()
    return {row["hash"]: row["result"] for row in rows if "error" not in row["result"]}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start jobs in the background without
    run(Study(pause=float(sys.argv[2])), SCOPE, Path(sys.argv[1]), Squares(), Local(workers=2))
