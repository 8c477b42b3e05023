"""`deltatheory steer`: a tuned model under disturbances, or a model that generates, under control."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from deltatheory.cli.options import (
    SETUP,
    TRAINING,
    Group,
    Progress,
    Shared,
    command,
    results_in,
    with_prefix,
)
from deltatheory.cli.output import progress_bar, tell

if TYPE_CHECKING:
    from deltatheory.cli.runs import RunFolder
    from deltatheory.problems import Setup
    from deltatheory.training import Training

_NUMBERS = {"prompts": 32, "words": 8, "max_new_tokens": 24}


def _generation(policy: list[str] | None, **given: Any) -> dict[str, Any] | None:
    """Return what `steer_generation` is asked; `None` without a policy."""
    if not policy:
        for name, value in given.items():
            if value not in (None, [], _NUMBERS.get(name)):
                raise ValueError(f"{name}={value!r}: is of texts under a policy; name one with --policy.")
        return None
    from deltatheory.control.generation.comparison import TUNED, GenerationProtocol, check_asked

    strengths, layers = given.pop("strength") or [2.0, 4.0, 8.0], given.pop("layer")
    target, tokens = given.pop("toward"), given.pop("tokens") or "last"
    check_asked([name for name in policy if name != TUNED], strengths)
    protocol = GenerationProtocol(layers=tuple(layers) if layers else None, tokens=tokens, **given)
    return {"policies": policy, "strengths": strengths, "target": target, "protocol": protocol}


_GENERATION = Group(
    _generation,
    {
        "policy": Shared(
            list[str] | None,
            None,
            "Of a model's states while it generates: mean-difference, probe-direction, "
            "principal-direction, random-direction, liseco, barrier, pid, lqr, value, cache-edit, "
            "reft, prefix, and with --tuned tuned. The "
            "labels are the contrast; nothing is tuned or disturbed.",
        ),
        "strength": Shared(
            list[float] | None, None, "Of each policy, in gaps between the two kinds of text; 2, 4 and 8."
        ),
        "toward": Shared(str | None, None, "Label that texts should have; the last by default."),
        "layer": Shared(
            list[int] | None, None, "Blocks where policies act, from 0; some behind the middle by default."
        ),
        "tokens": Shared(
            str | None, None, "Which they move: all, prompt, answer, or each as the last, the default."
        ),
        "instruction": Shared(
            str | None, None, "What the habit says before a prompt; 'This text is LABEL:' by default."
        ),
        "prompts": Shared(int, _NUMBERS["prompts"], "Test texts of other labels that are gone on with."),
        "words": Shared(int, _NUMBERS["words"], "First words of a test text that are a prompt."),
        "max_new_tokens": Shared(int, _NUMBERS["max_new_tokens"], "Longest continuation, in tokens."),
    },
)


@command(
    "models",
    "report",
    setup=SETUP.changed(help={"seed": "Of the draws and the disturbances."}),
    delta=with_prefix(gate="values"),
    training=TRAINING.only("steps", "learning_rate", "seed").changed(
        default={"steps": 60, "learning_rate": 1e-2},
        help={"steps": "Of that training.", "learning_rate": "Of that training."},
    ),
    generation=_GENERATION,
    out=results_in("runs/steer", "Folder for result.json, report.html, and what else is written."),
)
def steer(
    setup: "Setup",
    delta: tuple[str, dict[str, Any]],
    training: "Training",
    generation: dict[str, Any] | None,
    out: "RunFolder",
    tuned: Annotated[
        Path | None, Option(help="A trained adapter, of `train` or peft; trained here by default.")
    ] = None,
    controller: Annotated[
        list[str] | None,
        Option(help="none, tuned, probe, robust-prefix, pid, lqr; all that the delta takes by default."),
    ] = None,
    disturbance: Annotated[
        list[str] | None, Option(help="substitutions, typos, trigger, noise; all by default.")
    ] = None,
    progress: Progress = True,
) -> None:
    """Disturb a tuned model and see what each controller gives back; with --policy, steer generated text."""
    if generation is not None:
        for name, value in (("controller", controller), ("disturbance", disturbance)):
            if value:
                raise ValueError(f"{name}={value!r}: is of a tuned classifier; leave it out, or --policy.")
        _steer_texts(setup, tuned, generation, out, progress)
        return
    from deltatheory.adapters import tuned_problem
    from deltatheory.control.feedback.disturbances import DISTURBANCES
    from deltatheory.control.feedback.steering import SteeringProtocol, check_names, steer, tuned_delta

    disturbances = disturbance or list(DISTURBANCES)
    check_names(controller or (), disturbances)  # a typo is told before anything is loaded
    if tuned is not None:
        problem, value = tuned_problem(tuned, setup)
    else:
        problem, value = setup.classification(*delta), None
    check_names(controller or (), disturbances, problem)
    if value is None:
        value = tuned_delta(problem, training=training)
    with progress_bar(progress, unit="row") as bar:
        protocol = SteeringProtocol(seed=setup.seed)
        result = steer(
            problem, value, controller, disturbances, protocol=protocol, on_row=lambda _: bar.update()
        )
    tell(result, out.own)


def _steer_texts(
    setup: "Setup", tuned: Path | None, asked: dict[str, Any], out: "RunFolder", progress: bool
) -> None:
    from deltatheory.control.generation.comparison import check_generation, steer_generation

    check_generation(setup.task, asked["policies"], asked["strengths"], asked["target"], tuned)
    if tuned is None:
        backbone = setup.backbone
    else:
        from deltatheory.adapters import native, opened

        held = native(opened(tuned, setup))
        backbone, asked["tuned"] = held.backbone, (held.delta, held.values)
    with progress_bar(progress, unit="row") as bar:
        result = steer_generation(backbone, setup.task, **asked, on_row=lambda _: bar.update())
    tell(result, out.own)
