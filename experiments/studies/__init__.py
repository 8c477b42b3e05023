"""The studies, by name: each module says what it claims, yields its trials, and finds what came out."""

from experiments.studies import (
    combinations,
    convergence,
    dimension,
    efficiency,
    performance,
    prediction,
    pretraining,
    scale,
    subspace,
    transfer,
)

STUDIES = {
    module.__name__.rsplit(".", 1)[-1]: module
    for module in (
        performance,
        convergence,
        efficiency,
        combinations,
        scale,
        pretraining,
        transfer,
        dimension,
        prediction,
        subspace,
    )
}
# Those that need no labels: no kernel of margins, and no d90.
GENERATION = ("performance", "convergence", "efficiency", "combinations")
