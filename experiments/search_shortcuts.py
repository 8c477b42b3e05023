"""Would shortcuts make the measured search for d90 cheaper, and would d90 stay what it is?

    python -m experiments.search_shortcuts run --out FOLDER      # resumes; ends with the table
    python -m experiments.search_shortcuts table --out FOLDER    # table.md, table.json, figure.png

Three shortcuts on MiniLM, hashed subspaces and the label-words head: stop a run when it reaches the level
(early success), start a run at 2d from the solution at d (warm start), and several runs at once (vmap).
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from scipy.stats import t as student

from deltatheory.backbones import Backbone, Batch, load_backbone
from deltatheory.deltas import Delta
from deltatheory.deltas.subspace import FullFineTuning, Subspace
from deltatheory.dimension import Criterion
from deltatheory.problems import BACKWARD, FORWARD, ClassificationProblem
from deltatheory.problems.heads import make_head
from deltatheory.results import ResultLog, provenance, write_atomically, write_json
from deltatheory.tasks import load_task
from deltatheory.training.trainer import Training, train

TASK, HEAD, MAX_LENGTH = "stdlib-topics-2", "label-words", 64
STEPS, BATCH_SIZE, EVERY, SUBSAMPLE = 120, 32, 10, 100
DIMENSIONS, SEEDS, RATE, BASELINE_RATE = (128, 256, 512), (0, 1), 1.0, 1e-4
BATCHES, TOGETHER, LENGTH, VMAP_D = (8, 32), (1, 2, 4), 16, 256
_WORTHWHILE = 0.1  # of the passes: less is not worth a change
SECOND = 1000  # added to the seed of the data order where a run goes on in a larger subspace

app = typer.Typer(add_completion=False)
Out = Annotated[Path, typer.Option(help="Folder for trials.jsonl, table.md, table.json and figure.png.")]


class Watched(ClassificationProblem):
    """A problem that looks at the test split each `EVERY` steps of its trainer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.looks: list[dict] = []
        self.steps = 0
        self.middle: torch.Tensor | None = None

    def loss_and_gradient(self, delta: torch.Tensor, batch: Batch, labels: torch.Tensor) -> tuple:
        """Look first: the δ given is that of the steps done so far."""
        if self.steps and self.steps % EVERY == 0:
            self.look(delta)
        if self.steps == STEPS // 2:
            self.middle = delta.clone()
        self.steps += 1
        return super().loss_and_gradient(delta, batch, labels)

    def look(self, delta: torch.Tensor) -> None:
        """Note the accuracy on the test split and on its first examples, a stratified draw."""
        right = (self.predict(delta, self.test).argmax(1) == self.test.labels).double()
        look = {"step": self.steps, "test": float(right.mean()), "part": float(right[:SUBSAMPLE].mean())}
        self.looks.append(look)


class Study:
    """One backbone, task, head and log."""

    def __init__(self, out: Path, test_examples: int) -> None:
        self.backbone: Backbone = load_backbone()
        task = load_task(TASK)
        self.task = task.limited(min(512, len(task.train)), min(test_examples, len(task.test)), 0)
        self.head = make_head(HEAD, self.backbone, self.task, max_length=MAX_LENGTH)
        self.log = ResultLog(out / "trials.jsonl")
        self.identity = {
            "model": self.backbone.provenance,
            "task": {"name": self.task.name, **self.task.provenance},
            "test_examples": len(self.task.test),
            "head": HEAD,
            "max_length": MAX_LENGTH,
        }

    def problem(
        self, delta: Delta, kind: type[ClassificationProblem] = ClassificationProblem
    ) -> ClassificationProblem:
        return kind(self.backbone, self.task, delta, self.head, max_length=MAX_LENGTH, check=False)

    def subspace(self, d: int, seed: int) -> Subspace:
        return Subspace(self.backbone, d=d, seed=seed)

    def run(self, part: str, delta: Delta, training: Training, start: torch.Tensor | None = None) -> dict:
        """Train once, or find it in the log; runs of the part "zero" are watched."""
        config = {
            **self.identity,
            **delta.specification(),
            "part": part,
            "training": training.to_dict(),
            "looks": [EVERY, SUBSAMPLE] if part == "zero" else None,
        }
        if row := self.log.find(config):
            return row["result"]
        problem = self.problem(delta, Watched if part == "zero" else ClassificationProblem)
        outcome = train(problem, training, start=start)
        if outcome.test is None:
            raise RuntimeError(f"{part} {delta.specification()}: {outcome.status}")
        looks, deltas = [], {}
        if isinstance(problem, Watched):
            problem.look(outcome.delta)
            problem.restore()
            looks, deltas = problem.looks, {"half": problem.middle, "whole": outcome.delta}
        result = {
            "accuracy": outcome.test["accuracy"],
            "loss": outcome.test["loss"],
            "looks": looks,
            "deltas": {name: delta.tolist() for name, delta in deltas.items()},
            "seconds": outcome.seconds,
        }
        self.log.append(config, result)
        size = f"d={delta.size} seed={delta.specification().get('seed')}"
        typer.echo(f"{part} {size}: {result['accuracy']:.3f} in {outcome.seconds:.0f} s")
        return result

    def warm(self, kind: str, d: int, seed: int, solved: dict) -> None:
        """Go on in the subspace of twice the dimension, which contains the one of dimension d."""
        small, large = self.subspace(d, seed), self.subspace(2 * d, seed)
        delta = torch.tensor(solved["deltas"][kind.split()[0]])
        training = Training(STEPS // 2, BATCH_SIZE, RATE, seed=seed + SECOND)
        self.run(kind, large, training, small.projection.lift(delta, large.projection))

    def together(self, batch_size: int, k: int, repetitions: int) -> None:
        """Time a step of k runs with subspaces and batches of their own: in turn, and by one vmap."""
        config = {
            **self.identity,
            "part": "vmap",
            "batch_size": batch_size,
            "length": LENGTH,
            "k": k,
            "d": VMAP_D,
            "threads": torch.get_num_threads(),
            "repetitions": repetitions,
        }
        if self.log.find(config):
            return
        problems = [self.problem(self.subspace(VMAP_D, seed)) for seed in range(k)]
        deltas = [0.1 * torch.randn(VMAP_D, generator=torch.Generator().manual_seed(i)) for i in range(k)]
        texts = [" ".join([f"word {i}"] * LENGTH) for i in range(k)]
        batches = [self.backbone.encode([text] * batch_size, max_length=LENGTH) for text in texts]
        labels = torch.arange(batch_size) % self.task.num_classes
        step = _vmapped(problems, batches, labels)

        def in_turn() -> torch.Tensor:
            triples = zip(problems, deltas, batches, strict=True)
            return torch.stack([p.loss_and_gradient(x, batch, labels)[2] for p, x, batch in triples])

        seconds: dict[str, list[float]] = {"in turn": [], "vmap": []}
        gradients = {}
        for repetition in range(repetitions + 1):  # interleaved; the first round does not count
            for name, function in (("in turn", in_turn), ("vmap", lambda: step(deltas))):
                began = time.perf_counter()
                gradients[name] = function()
                if repetition:
                    seconds[name].append(time.perf_counter() - began)
            problems[0].restore()
        error = (gradients["vmap"] - gradients["in turn"]).norm() / gradients["in turn"].norm()
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        self.log.append(config, {**medians, "gradient_error": float(error), "seconds": seconds})
        typer.echo(f"vmap {batch_size} x {LENGTH}, k={k}: {medians}, gradient error {float(error):.1e}")


def _vmapped(problems: list[ClassificationProblem], batches: list[Batch], labels: torch.Tensor) -> Any:
    """Return (δ_1, ..., δ_k) ↦ their k gradients, by one vmap over stacked parameters and batches."""
    spaces = [p.delta for p in problems]
    first, origin = problems[0], spaces[0].origin  # type: ignore[attr-defined]
    names = [name for name, value in vars(batches[0]).items() if value is not None]
    inputs = {name: torch.stack([getattr(batch, name) for batch in batches]) for name in names}

    def loss(parameters: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = first.head(first.backbone.pooled(Batch(**tensors), parameters))
        return torch.nn.functional.cross_entropy(logits, labels)

    gradient = torch.func.vmap(torch.func.grad(loss))
    theta = torch.empty(len(spaces), len(origin.theta0))

    def step(deltas: list[torch.Tensor]) -> torch.Tensor:
        for space, delta, row in zip(spaces, deltas, theta, strict=True):
            space.projection.apply(delta, out=row, base=origin.theta0)  # type: ignore[attr-defined]
        stacked = {
            name: theta[:, start:stop].reshape(len(theta), *shape)
            for name, start, stop, shape in origin.flat.segments
        }
        out = gradient(stacked, inputs)
        flat = torch.cat([out[name].flatten(1) for name in stacked], 1)
        pairs = zip(spaces, flat, strict=True)
        return torch.stack([space.projection.adjoint(g) for space, g in pairs])  # type: ignore[attr-defined]

    return step


@app.command()
def run(
    out: Out,
    threads: int = 1,
    test_examples: int = 1000,
    level: Annotated[float | None, typer.Option(help="Instead of 0.9 of full fine-tuning.")] = None,
    repetitions: int = 7,
) -> None:
    """Train and time what the log does not have yet, then make the table."""
    torch.set_num_threads(threads)
    study = Study(out, test_examples)
    if level is None:
        study.run("baseline", FullFineTuning(study.backbone), Training(STEPS, BATCH_SIZE, BASELINE_RATE))
    solved = {}
    for d in DIMENSIONS:
        for seed in SEEDS:
            training = Training(STEPS, BATCH_SIZE, RATE, seed=seed)
            solved[d, seed] = study.run("zero", study.subspace(d, seed), training)
    pairs = [(d, seed) for d in DIMENSIONS[:-1] for seed in SEEDS]
    for pair in pairs:
        study.warm("half + half", *pair, solved[pair])
    for batch_size in BATCHES:
        for k in TOGETHER:
            study.together(batch_size, k, repetitions)
    for pair in pairs:
        study.warm("whole + half", *pair, solved[pair])
    table(out, level)


@app.command()
def table(out: Out, level: float | None = None) -> None:
    """Make table.md, table.json and figure.png of the log."""
    rows = list({row["hash"]: row for row in ResultLog(out / "trials.jsonl").rows()}.values())
    parts: dict[str, list[dict]] = {}
    for row in rows:
        parts.setdefault(row["config"]["part"], []).append(row)
    baseline = parts["baseline"][-1]["result"]["accuracy"] if level is None else None
    level = Criterion().level(baseline, 0.0) if level is None else level
    test = parts["zero"][0]["config"]["test_examples"]
    early = [_early(row, level, test) for row in parts["zero"]]
    warm = _warm(parts)
    vmap = [_vmap_row(row) for row in parts["vmap"]]
    verdict = [_early_verdict(early), _warm_verdict(warm, early), _vmap_verdict(vmap)]
    summary = {"baseline": baseline, "level": level, "test_examples": test, "verdict": verdict}
    tables = {"early": early, "warm": warm, "vmap": vmap}
    write_json(out / "table.json", {**summary, **tables, "provenance": provenance()})
    text = _text(summary, early, warm, vmap)
    write_atomically(out / "table.md", text)
    typer.echo(text)
    _figure(out, early, level)


def _early(row: dict, level: float, test: int) -> dict:
    """What stopping at the level would have done to one run."""
    looks = row["result"]["looks"]
    above = [look["test"] >= level for look in looks]
    stays = next((look["step"] for i, look in enumerate(looks) if all(above[i:])), None)
    first = next((look for look in looks if look["test"] >= level), None)
    step_passes = BATCH_SIZE * (FORWARD + BACKWARD)
    whole = STEPS * step_passes + FORWARD * test
    # Look at the part; where it is at the level, ask the whole split; where that is too, stop.
    passes, stop = 0.0, looks[-1]
    for look in looks[:-1]:
        passes += EVERY * step_passes + FORWARD * SUBSAMPLE
        if look["part"] >= level:
            passes += FORWARD * (test - SUBSAMPLE)
            if look["test"] >= level:
                stop = look
                break
    else:
        passes += EVERY * step_passes + FORWARD * test
    return {
        "d": row["config"]["d"],
        "seed": row["config"]["seed"],
        "level": level,
        "test_examples": test,
        "final": looks[-1]["test"],
        "solved": above[-1],
        "first_reached": first and first["step"],
        "stays_from": stays,
        "stopped": stop["step"] if stop is not looks[-1] else None,
        "at_stop": stop["test"],
        "saved": 1 - passes / whole,
        "false_success": stop is not looks[-1] and not above[-1],
        "looks_above": sum(above[:-1]),
        "looks": looks,
        "seconds": row["result"]["seconds"],
    }


def _warm(parts: dict[str, list[dict]]) -> list[dict]:
    """Pairs of runs at 2d, warm and from zero, of the same subspace."""
    zero = {(r["config"]["d"], r["config"]["seed"]): r["result"] for r in parts["zero"]}
    pairs = []
    for part in _KINDS:
        for row in parts.get(part, []):
            d, seed = row["config"]["d"], row["config"]["seed"]
            if (d, seed) not in zero:  # not run yet
                continue
            warm, cold = row["result"]["accuracy"], zero[d, seed]["accuracy"]
            small = zero[d // 2, seed]["accuracy"]
            pair = {"kind": part, "d": d // 2, "larger": d, "seed": seed, "small": small}
            pairs.append({**pair, "warm": warm, "zero": cold, "difference": warm - cold})
    return pairs


def _vmap_row(row: dict) -> dict:
    config, result = row["config"], row["result"]
    return {
        "batch": f"{config['batch_size']} x {config['length']}",
        "k": config["k"],
        "threads": config["threads"],
        "in_turn": result["in turn"],
        "vmap": result["vmap"],
        "speedup": result["in turn"] / result["vmap"],
        "gradient_error": result["gradient_error"],
    }


def _early_verdict(early: list[dict]) -> str:
    stopped = [row for row in early if row["stopped"]]
    reached = [row for row in early if row["first_reached"]]
    false, missed = (sum(not row["solved"] for row in rows) for rows in (stopped, reached))
    saved = statistics.mean(row["saved"] for row in early)
    low, high = (f(row["saved"] for row in early) for f in (min, max))
    text = (
        f"Early success: {len(stopped)} of {len(early)} runs would have stopped, which changes the passes of "
        f"all runs by {-saved:+.0%}, looks included ({-high:+.0%} to {-low:+.0%} a run). {len(reached)} runs "
        f"were at the level at some look, and {missed} of them ended below it. "
    )
    if not stopped:
        return text + "No run gains by it here."
    gaps = [row["final"] - row["at_stop"] for row in stopped]
    text += (
        f"{false} of the {len(stopped)} stops were false. Accuracy went on from the stop by "
        f"{statistics.mean(gaps):+.3f} on average ({min(gaps):+.3f} to {max(gaps):+.3f}), so a stopped run "
        "tells the search, which fits a curve to accuracies, that the level was reached and not by how much: "
    )
    if false:
        below = [row["level"] - row["final"] for row in stopped if not row["solved"]]
        return text + (
            f"it changes which runs count as solved (the false ones ended {min(below):.3f} to "
            f"{max(below):.3f} below; one test example is {1 / early[0]['test_examples']:.3f})."
        )
    return text + ("passes for information." if saved > _WORTHWHILE else "and next to nothing is saved.")


def _warm_verdict(warm: list[dict], early: list[dict]) -> str:
    scores: dict[int, list[float]] = {}
    for row in early:
        scores.setdefault(row["d"], []).append(row["final"])
    seeds = statistics.mean(statistics.stdev(values) for values in scores.values() if len(values) > 1)
    means = [statistics.mean(scores[d]) for d in sorted(scores)]
    doubling = (means[-1] - means[0]) / (len(means) - 1)
    text = f"Warm start, against {STEPS} steps at 2d from zero:"
    pairs = (len(DIMENSIONS) - 1) * len(SEEDS)
    biased, judged = [], False
    for kind, budget in _KINDS.items():
        differences = [row["difference"] for row in warm if row["kind"] == kind]
        if len(differences) < 2:
            text += f" {budget}, {len(differences)} of {pairs} pairs run: too few to say;"
            continue
        judged = True
        mean, deviation, half = _spread(differences)
        text += (
            f" {budget}, {mean:+.3f} ± {half:.3f} (standard deviation {deviation:.3f}, {len(differences)} of "
            f"{pairs} pairs);"
        )
        if abs(mean) > half:
            biased.append(f"{kind!r} ends {'higher' if mean > 0 else 'lower'}")
    text = (
        f"{text[:-1]}. Doubling d from zero brings {doubling:+.3f} here, and seeds differ by {seeds:.3f} "
        "(standard deviation). "
    )
    if not judged:
        return text + "No verdict yet."
    if biased:
        return f"{text}{' and '.join(biased)}: that is not a run of the step budget, and its d90 is another."
    return text + "No bias is beyond its 95 % interval; one within the intervals would not have been seen."


def _vmap_verdict(vmap: list[dict]) -> str:
    most = max(row["k"] for row in vmap)
    ratios = [row["speedup"] for row in vmap if row["k"] == most]
    least = 1 / (1 - _WORTHWHILE)
    gain = (
        "pays" if min(ratios) > least else "does not pay" if max(ratios) < least else "pays for some batches"
    )
    texts = " and ".join(f"{r['speedup']:.2f} (batch {r['batch']})" for r in vmap if r["k"] == most)
    return (
        f"vmap: on {vmap[0]['threads']} CPU thread(s), {most} steps in turn take {texts} times as long as "
        f"one vmapped step of {most} runs: it {gain} there."
    )


def _spread(values: list[float]) -> tuple[float, float, float]:
    """Mean, standard deviation, and half the 95 % interval of the mean (Student's t)."""
    deviation, n = statistics.stdev(values), len(values)
    return statistics.mean(values), deviation, float(student.ppf(0.975, n - 1)) * deviation / n**0.5


_KINDS = {
    "half + half": f"the first {STEPS // 2} of the {STEPS} steps at d and {STEPS // 2} more at 2d",
    "whole + half": f"all {STEPS} steps at d, which the search has made, and {STEPS // 2} more at 2d",
}


def _text(summary: dict, early: list[dict], warm: list[dict], vmap: list[dict]) -> str:
    """Lay everything out in Markdown."""
    of = "given" if summary["baseline"] is None else f"0.9 of full fine-tuning, {summary['baseline']:.3f}"
    lines = [
        f"Shortcuts of the measured search: MiniLM, {TASK}, {HEAD} head, hashed subspaces, {STEPS} steps of "
        f"{BATCH_SIZE}, learning rate {RATE:g},",
        f"{summary['test_examples']} test examples. The level is {summary['level']:.3f} ({of}).",
        "",
        *(f"- {sentence}" for sentence in summary["verdict"]),
        "",
        "## Early success",
        "",
        f"Accuracy on the test split each {EVERY} steps. A run stops where {SUBSAMPLE} test examples, and "
        "then the whole split, are at the level;",
        "the share of passes saved counts these looks, and is below 0 where a run never stops. A stop is "
        "false where the whole run ends below the level.",
        "",
        "| d | seed | accuracy at the end | first at the level | at the level for good from | stops at "
        "| accuracy there | passes saved | false |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in early:
        steps = (str(r[key] or "-") for key in ("first_reached", "stays_from", "stopped"))
        lines.append(
            f"| {r['d']} | {r['seed']} | {r['final']:.3f} | {' | '.join(steps)} | {r['at_stop']:.3f} "
            f"| {r['saved']:.0%} | {'yes' if r['false_success'] else 'no'} |"
        )
    lines += ["", "![Accuracy against step](figure.png)", "", "## Warm start", ""]
    lines += [f"- {kind}: {text}; against {STEPS} steps at 2d from zero." for kind, text in _KINDS.items()]
    lines += [
        "",
        "| kind | d to 2d | seed | at d | warm | from zero | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['kind']} | {r['d']} to {r['larger']} | {r['seed']} | {r['small']:.3f} | {r['warm']:.3f} "
        f"| {r['zero']:.3f} | {r['difference']:+.3f} |"
        for r in warm
    ]
    lines += [
        "",
        "## vmap",
        "",
        f"Seconds for one gradient of each of k runs (d = {VMAP_D}, subspaces and batches of their own): in "
        "turn and in place, as the package does it,",
        "and by one vmap over stacked parameters. Medians of interleaved repetitions.",
        "",
        "| batch | k | in turn s | vmap s | in turn / vmap | relative difference of the gradients |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['batch']} | {r['k']} | {r['in_turn']:.3f} | {r['vmap']:.3f} | {r['speedup']:.2f} "
        f"| {r['gradient_error']:.0e} |"
        for r in vmap
    ]
    return "\n".join(lines) + "\n"


def _figure(out: Path, early: list[dict], level: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for r in early:
        style = {"color": f"C{DIMENSIONS.index(r['d'])}", "ls": ("-", "--", ":")[r["seed"] % 3]}
        steps, scores = ([look[key] for look in r["looks"]] for key in ("step", "test"))
        axes.plot(steps, scores, marker="o", ms=3, label=f"d = {r['d']}, seed {r['seed']}", **style)
    axes.axhline(level, color="0.4", lw=1, label=f"level {level:.3f}")
    axes.set(xlabel="step", ylabel="test accuracy")
    axes.legend(fontsize=7)
    figure.savefig(out / "figure.png", dpi=120)


if __name__ == "__main__":
    app()
