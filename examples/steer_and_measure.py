"""Steer and measure: a tuned prefix under disturbances, and what controllers give back at what energy.

    python examples/steer_and_measure.py my.csv ./my-model runs/steered

Without arguments: the embedded task and model.
"""

import sys

import deltatheory
from deltatheory.control import LayeredSystem, maximum_principle, output_gramian
from deltatheory.control.feedback import steer

CONTROLLERS = ("pid", "lqr")
DISTURBANCES = ("typos", "noise")


def main(task="stdlib-topics", model="minilm", out="runs/steered", *, steps=60, test_examples=200):
    """Tune a prefix, say who moves the outputs and how near a minimum it is, then disturb and steer it."""
    setup = deltatheory.Setup(model, task, test_examples=test_examples)
    problem = setup.classification("prefix:8", {"gate": "values"})
    gramian = output_gramian(problem, examples=min(64, len(problem.train)), outputs="margin")
    shares = sorted(gramian.shares().items(), key=lambda pair: -pair[1])
    print("Who can move the outputs:", ", ".join(f"{name} {share:.0%}" for name, share in shares[:3]))

    tuned = deltatheory.train(problem, deltatheory.Training(steps=steps, learning_rate=1e-2))
    system = LayeredSystem(
        setup.replace(train_examples=min(64, len(problem.train))).classification(problem.delta)
    )
    residuals = maximum_principle(system, system.split(tuned.delta)).residual
    print(f"Largest residual of the maximum principle over layers: {max(residuals):.2g}")

    result = steer(problem, tuned.delta, CONTROLLERS, DISTURBANCES)
    print(result.answer().sentence)
    print(result.table())
    result.save(out)  # the page and the numbers
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
