"""Every example of every delta by a name, as "full scope=all": the first by the delta's name alone."""

from __future__ import annotations

from deltatheory.deltas import DELTAS
from deltatheory.deltas.base import Options


def _label(name: str, number: int, options: Options) -> str:
    """Say what tells an example from the first one."""
    first = DELTAS[name].examples[0]
    said = [f"{key}={value}" for key, value in options.items() if first.get(key) != value]
    plain = [text for text in said if text.count("=") == 1 and not set(text) & set("[({")]
    return " ".join([name, *plain] if plain else [name, str(number)]) if number else name


CASES: dict[str, tuple[str, Options]] = {
    _label(name, number, options): (name, options)
    for name, kind in DELTAS.items()
    for number, options in enumerate(kind.examples)
}
FIRST = {name: kind.examples[0] for name, kind in DELTAS.items()}
