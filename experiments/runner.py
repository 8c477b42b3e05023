"""Run what is missing of a study: here, or on a cluster; a killed run goes on where it stopped."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from deltatheory.results import ResultLog, locked, merge
from experiments.environment import Environment
from experiments.kinds import KINDS
from experiments.trial import Known, Trial

if TYPE_CHECKING:  # every worker imports this module, and needs neither
    from experiments.scope import Scope
    from experiments.studies import Study

LOG = "trials.jsonl"
# What a trial may fail with; its row says why.
FAILURES = (ValueError, RuntimeError, FloatingPointError, OSError, ImportError)


class Engine(Protocol):
    """Runs trials; each is in the log when it has finished."""

    def __call__(self, trials: Sequence[Trial], folder: Path, place: Environment, until: float) -> None:
        """Run trials, starting none after the time `until`."""
        ...


def run(
    study: Study,
    scope: Scope,
    folder: Path,
    place: Environment,
    engine: Engine,
    *,
    minutes: float | None = None,
    say: Callable[[str], None] = print,
) -> list[Trial]:
    """Run a study's trials that are not in the log of a folder, in waves, until no new one follows.

    Args:
        study: which.
        scope: on what.
        folder: where `trials.jsonl` is, or goes.
        place: where the trials run.
        engine: what runs them.
        minutes: start none after so many.
        say: told of each wave.

    Returns:
        The trials that are still missing; those that failed are among them.

    Raises:
        ValueError: for minutes that are no number of them, and as `Known.read_by`.
        ChildProcessError: if a worker or a job ended before its trials; what had finished is kept.
    """
    if minutes is not None and not 0 <= minutes < math.inf:
        raise ValueError(f"minutes={minutes}: must be at least 0, and finite.")
    collect(folder)
    until = time.time() + 60 * minutes if minutes is not None else float("inf")
    log, tried = ResultLog(folder / LOG), set()
    while True:
        missing = _missing(study, scope, log)
        wave = [trial for trial in missing if trial.hash not in tried]
        if not wave or time.time() >= until:
            return missing
        say(f"{len(wave)} trials to run")
        tried |= {trial.hash for trial in wave}
        engine(wave, folder, place, until)


def _missing(study: Study, scope: Scope, log: ResultLog) -> list[Trial]:
    known = Known.read(log)

    def asked() -> dict[str, Trial]:
        return {trial.hash: trial for trial in study.trials(scope, known) if known.get(trial) is None}

    trials = known.read_by(asked)
    kinds = list(
        dict.fromkeys(trial.kind for trial in trials.values())
    )  # a study's order: the slow ones last
    # those of a model and a task share what is loaded
    return sorted(trials.values(), key=lambda trial: (trial.model, kinds.index(trial.kind), trial.task))


def execute(trial: Trial, place: Environment, log: ResultLog) -> dict[str, Any]:
    """Run one trial and write its row; of one that fails the row says why."""
    try:
        result = KINDS[trial.kind].run(trial, place)
    except FAILURES as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    return log.append(trial.config, result)


class Local:
    """On this machine, in one process or several.

    Args:
        workers: processes; on one GPU they share it.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers}: must be at least 1.")
        self.workers = workers

    def __call__(self, trials: Sequence[Trial], folder: Path, place: Environment, until: float) -> None:
        """Run trials in turn, or some at once."""
        from tqdm import tqdm

        with tqdm(total=len(trials), file=sys.stderr) as bar:
            for trial, row in self._rows(trials, folder, place, until):
                if error := row["result"].get("error"):
                    bar.write(f"{trial}: {error}", file=sys.stderr)
                bar.set_postfix_str(str(trial))
                bar.update()

    def _rows(
        self, trials: Sequence[Trial], folder: Path, place: Environment, until: float
    ) -> Iterable[tuple[Trial, dict]]:
        log = ResultLog(folder / LOG)
        if self.workers == 1:
            place.start()
            for trial in trials:
                if time.time() >= until:
                    return
                yield trial, execute(trial, place, log)
            return
        with ProcessPoolExecutor(self.workers, get_context("spawn"), _start_worker, (place,)) as pool:
            try:
                started = {pool.submit(_in_time, trial, place, log, until): trial for trial in trials}
                for future in as_completed(started):
                    if row := future.result():
                        yield started[future], row
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    f"workers={self.workers}: one was killed, as the system does when memory is short; what "
                    f"has finished is in {log.path}, fewer workers need less."
                ) from error
            except BaseException:  # interrupted: the pool would run all trials before it ends
                for worker in active_children():
                    worker.terminate()
                raise


class Accelerated(Local):
    """On several GPUs at once, each of which takes its share of every batch: under `accelerate launch`.

    The first process runs the study, hands every trial to the others, which `follow`, and writes its row.

    Args:
        device: "cpu" or "cuda".

    Attributes:
        leads: whether this is the first process.
    """

    def __init__(self, device: str) -> None:
        from deltatheory.training.parallel import from_first, is_first, join

        super().__init__()
        join(device)
        self.leads, self._handed = is_first(), from_first

    def _rows(
        self, trials: Sequence[Trial], folder: Path, place: Environment, until: float
    ) -> Iterable[tuple[Trial, dict]]:
        for trial in trials:
            if time.time() < until:
                self._hand(trial)
                yield from super()._rows([trial], folder, place, math.inf)

    def _hand(self, trial: Trial | None) -> Trial | None:
        return self._handed(lambda: trial)

    def follow(self, place: Environment) -> None:
        """Take part in every trial until there are no more."""
        place.start()
        while trial := self._hand(None):
            with suppress(*FAILURES):  # the first process writes why
                KINDS[trial.kind].run(trial, place)

    def dismiss(self) -> None:
        """Tell those that follow that there are no more trials."""
        self._hand(None)


def _start_worker(place: Environment) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    place.start()


def _end_with_parent() -> None:
    """Leave when the process that deals out the trials is gone: a worker without one would wait for ever."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _in_time(trial: Trial, place: Environment, log: ResultLog, until: float) -> dict | None:
    return execute(trial, place, log) if time.time() < until else None


class Cluster:
    """Through `submitit`: Slurm, or its local executor, which is what the tests use.

    Every job has a log of its own, since not all network file systems lock; they are merged at the end, and
    those of a run that was cut off before the next one.

    Args:
        jobs: how many at once.
        cluster: "slurm" or "local".
        options: parameters of `submitit.AutoExecutor` (slurm_partition, gpus_per_node, timeout_min, ...).
    """

    def __init__(self, jobs: int = 4, cluster: str = "slurm", **options: Any) -> None:
        if jobs < 1:
            raise ValueError(f"jobs={jobs}: must be at least 1.")
        self.jobs, self.cluster, self.options = jobs, cluster, {"timeout_min": 240, **options}

    def __call__(self, trials: Sequence[Trial], folder: Path, place: Environment, until: float) -> None:
        """Deal the trials out to jobs, wait, merge."""
        try:
            from submitit import AutoExecutor
        except ImportError as error:
            raise ImportError("A cluster needs submitit: pip install submitit") from error
        try:
            executor = AutoExecutor(folder / "jobs", cluster=self.cluster)
            executor.update_parameters(cpus_per_task=place.threads, slurm_array_parallelism=self.jobs)
            executor.update_parameters(**self.options)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:  # submitit's ways
            raise ValueError(f"cluster={self.cluster!r}, job={self.options}: {error}") from error
        with executor.batch():
            jobs = [
                executor.submit(_job, trials[k :: self.jobs], folder / f"part-{k}.jsonl", place, until)
                for k in range(min(self.jobs, len(trials)))
            ]
        failed = [error for job in jobs if (error := job.exception())]
        collect(folder)
        if failed:
            raise ChildProcessError(
                f"{len(failed)} of {len(jobs)} jobs failed; logs are in {folder / 'jobs'}: {failed[0]}"
            )


def collect(folder: Path) -> None:
    """Merge what jobs left into the log of a folder; a job that still runs begins a new part."""
    with locked(folder):
        # Versions before the lock renamed a part first: what they were killed over is a part too.
        if parts := sorted((*folder.glob("part-*.jsonl"), *folder.glob("part-*.merging"))):
            merge(parts, folder / LOG)
            for part in parts:
                part.unlink()


def _job(trials: Sequence[Trial], path: Path, place: Environment, until: float) -> None:
    place.start()
    for trial in trials:
        if time.time() < until:
            execute(trial, place, ResultLog(path))
