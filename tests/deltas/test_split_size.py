import pytest

from deltatheory.deltas import split_size


@pytest.mark.parametrize(
    ("text", "options"),
    [("prefix:8", {"length": 8}), ("lora:4", {"r": 4}), ("subspace:100", {"d": 100}), ("ia3", {})],
)
def test_a_size_is_the_first_option_of_the_class(text, options):
    assert split_size(text) == (text.partition(":")[0], options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ia3:3", "has no size"),
        ("full:2", "has no size"),
        ("prefix:x", "at least 1"),
        ("prefix:0", "at least 1"),
        ("prefx:3", "nearest: prefix"),
    ],
)
def test_what_is_no_size_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        split_size(text)
