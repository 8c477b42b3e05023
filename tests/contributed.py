"""A plugin of pytest that registers the examples of CONTRIBUTING.md: `pytest -p contributed ...`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"
_EXAMPLE = re.compile(r"^### (An? [^:]+):.*?\n\n```python\n(.*?)```", re.S | re.M)


def examples() -> dict[str, ModuleType]:
    """Run every example of the guide as a module of its own, by what it is an example of."""
    found = {}
    for kind, code in _EXAMPLE.findall(GUIDE.read_text("utf-8")):
        module = ModuleType(f"contributed_{len(found)}")
        sys.modules[module.__name__] = module
        exec(compile(code, f"{GUIDE.name}: {kind}", "exec"), module.__dict__)
        found[kind] = module
    return found


def _class_of(module: ModuleType, base: type) -> type:
    """The one class that an example defines."""
    own = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    (found,) = [x for x in own if issubclass(x, base)]
    return found


def pytest_configure() -> None:
    """Register them as the line would that a contributor adds."""
    from deltatheory.control.solvers import SOLVERS, Solver
    from deltatheory.deltas import DELTAS, Delta
    from deltatheory.problems.losses import LOSSES, Loss
    from deltatheory.projections import PROJECTIONS, Projection
    from experiments.studies import STUDIES

    found = examples()
    registries = {
        "A delta": (DELTAS, Delta),
        "A projection": (PROJECTIONS, Projection),
        "A solver": (SOLVERS, Solver),
        "A loss": (LOSSES, Loss),
    }
    for kind, (registry, base) in registries.items():
        one = _class_of(found[kind], base)
        registry[one.name] = one
    STUDIES["headroom"] = found["A study"]
