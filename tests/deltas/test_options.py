"""Options of deltas: whatever is given for one, a delta or one line that says what is allowed."""

from __future__ import annotations

import inspect
import math

import pytest
from tiny_models import tiny

from deltatheory.deltas import DELTAS, check_options, make_delta

NEEDED = {
    "subspace": {"d": 3},
    "layerwise-subspace": {"d": 9},
    "unilora": {"d": 5},
    "modules": {"patterns": ["*"]},
    "unified-subspace": {"d": 3, "deltas": [["lora", {"r": 2}]]},
    "combined": {"deltas": [["lora", {"r": 2}]]},
    "fisher-mask": {"count": 3},
    "vera": {"r": 4},
    "intrinsic-prompt": {"d": 3},
}
# No large numbers of rows or columns, for which there may be memory.
STRANGE = [
    "x",
    "",
    -1,
    0,
    2.5,
    10**30,
    -(10**30),
    math.nan,
    math.inf,
    True,
    [],
    ["x"],
    [1],
    [-1],
    {},
    {"[": 1},
]


@pytest.mark.parametrize("name", DELTAS)
def test_strange_values_give_a_delta_or_one_line(name):
    backbone = tiny("bert")
    for option in (
        p.name for p in inspect.signature(DELTAS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY
    ):
        for value in STRANGE:
            try:
                delta = make_delta(name, backbone, **NEEDED.get(name, {}) | {option: value})
            except ValueError as error:
                text = str(error)
            else:
                text = ""
                delta.edit(delta.initial())
            assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "option", "value", "allowed"),
    [
        ("lora", "r", "x", "int"),
        ("lora", "r", True, "int"),
        ("lora", "r", 10**30, "int"),
        ("lora", "alpha", math.nan, r"float \| None"),
        ("lora", "targets", "query", r"Sequence\[str\] \| None"),
        ("lora", "rank_pattern", {"query": "x"}, r"Mapping\[str, int\] \| None"),
        ("prefix", "shift", 1, "bool"),
        ("prefix", "gate", 3, "str"),
    ],
)
def test_an_option_of_another_type_is_refused_before_anything_is_loaded(name, option, value, allowed):
    with pytest.raises(ValueError, match=rf"^option {option}=.*: the delta '{name}' takes {allowed};"):
        check_options(name, {option: value})
