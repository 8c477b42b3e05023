"""A pytest module for a theorem."""

from __future__ import annotations

import re

from deltatheory.theorems.theorem import Theorem, get_theorem

__all__ = ["write_tests"]

_HEAD = '''"""{label} [{status}]

{words}

Written by deltatheory.testing.write_tests.
"""

from dataclasses import replace

import pytest

from deltatheory.testing import check
from deltatheory.theorems import get_theorem

THEOREM = get_theorem("{id}")


def test_the_bound_holds():
    report = check(THEOREM, examples={examples})
    assert report.holds, report


def test_the_mutant_is_rejected():
    """Mutant: {mutant}."""
    mutant = replace(THEOREM, sides=THEOREM.mutant.sides)
    assert mutant.check(THEOREM.mutant.instance(0), exact=THEOREM.rational).holds is False
'''

_DROPPED = '''

@pytest.mark.parametrize("seed", range(3))
def test_it_needs_{function}(seed):
    """{statement}."""
    hypothesis = THEOREM.hypotheses[{index}]
    witness = hypothesis.violator(seed)
    assert THEOREM.unmet(witness) == ("{name}",)
    assert THEOREM.check(witness, exact=THEOREM.rational).holds is False
'''


def write_tests(theorem: Theorem | str, *, examples: int = 25) -> str:
    """Return a pytest module: the property, the mutant, and one test for every dropped hypothesis.

    Args:
        theorem: a theorem, or its id.
        examples: instances of the property test.

    Raises:
        ValueError: for an unknown id.
    """
    theorem = get_theorem(theorem) if isinstance(theorem, str) else theorem
    parts = [
        _HEAD.format(
            label=theorem.label,
            status=theorem.status,
            words=_literal(theorem.words),
            id=theorem.id,
            examples=examples,
            mutant=_literal(theorem.mutant.description),
        )
    ]
    for index, hypothesis in enumerate(theorem.hypotheses):
        function = re.sub(r"\W+", "_", hypothesis.name.lower()).strip("_")
        parts.append(
            _DROPPED.format(
                function=function,
                statement=_literal(hypothesis.statement),
                index=index,
                name=hypothesis.name,
            )
        )
    return "".join(parts)


def _literal(text: str) -> str:
    """Return a text as it may stand in a docstring."""
    return text.replace("\\", "\\\\").replace('"', "'").rstrip(".")
