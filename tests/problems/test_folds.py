import pytest

from deltatheory.problems.folds import folds


@pytest.mark.parametrize(("examples", "count"), [(10, 4), (9, 8), (3, 8), (1, 2)])
def test_every_example_is_held_out_once(examples, count):
    parts = folds(examples, count)
    assert len(parts) == min(examples, count)
    assert sorted(i for _, held in parts for i in held) == list(range(examples))
    for kept, held in parts:
        assert sorted(kept + held) == list(range(examples))
