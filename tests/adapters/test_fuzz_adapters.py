"""Whatever bytes an adapter's or a delta's file has: what is written in it, or one ValueError."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny, tiny_model, tiny_tokenizer

from deltatheory.adapters import load_adapter, to_peft
from deltatheory.adapters.files import CONFIG, WEIGHTS
from deltatheory.deltas import make_delta
from deltatheory.deltas.files import load_delta, save_delta

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
# Where, how many bytes go away, and what comes in their place.
CUTS = st.lists(
    st.tuples(st.integers(0, 700), st.integers(0, 9), st.binary(max_size=9)), min_size=1, max_size=4
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 40)
    | st.floats()
    | st.sampled_from(["query", ".*", "(", "LORA", ""]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["query", "x"]), inner, max_size=2)
    ),
    max_leaves=3,
)
KEYS = (
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
)
KEYS += (
    "layers_to_transform",
    "layers_pattern",
    "bias",
    "use_dora",
    "use_rslora",
    "init_lora_weights",
    "peft_type",
)
KEYS += ("task_type", "auto_mapping", "trainable_token_indices", "fan_in_fan_out", "base_model_name_or_path")


def damaged(content: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for start, length, new in cuts:
        content = content[:start] + new + content[start + length :]
    return content


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder, and the content of an adapter's two files and of a delta's."""
    folder = tmp_path_factory.mktemp("adapter")
    delta = make_delta("lora", tiny("bert"), r=2, targets=["query"])
    to_peft(delta, delta.initial(), folder)
    save_delta(folder / "delta.safetensors", delta, delta.initial())
    return folder, *((folder / name).read_bytes() for name in (CONFIG, WEIGHTS, "delta.safetensors"))


def refused_in_one_line(folder) -> None:
    try:
        load_adapter(folder, tiny_model("bert"), tokenizer=tiny_tokenizer("bert"), check_name=False)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


@quick
@given(CUTS)
def test_bytes_of_weights(whole, cuts):
    folder, config, weights, _ = whole
    (folder / CONFIG).write_bytes(config)
    (folder / WEIGHTS).write_bytes(damaged(weights, cuts))
    refused_in_one_line(folder)


@quick
@given(CUTS)
def test_bytes_of_a_configuration(whole, cuts):
    folder, config, weights, _ = whole
    (folder / CONFIG).write_bytes(damaged(config, cuts))
    (folder / WEIGHTS).write_bytes(weights)
    refused_in_one_line(folder)


@quick
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_values_of_a_configuration(whole, changes):
    folder, config, weights, _ = whole
    (folder / CONFIG).write_text(json.dumps(json.loads(config) | changes))
    (folder / WEIGHTS).write_bytes(weights)
    refused_in_one_line(folder)


@quick
@given(CUTS)
def test_bytes_of_a_delta(whole, cuts):
    folder, _, _, delta = whole
    (folder / "delta.safetensors").write_bytes(damaged(delta, cuts))
    with suppress(ValueError):
        load_delta(folder / "delta.safetensors", tiny("bert"))
