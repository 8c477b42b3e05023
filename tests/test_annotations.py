"""The package's annotations are checked while its tests run: in a sixth of them, by name, and here."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from deltatheory.linearization.error import relative_error


@pytest.fixture(autouse=True)
def checked() -> Iterator[None]:
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", False)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.parametrize("linear", [torch.ones(2), torch.ones(2, 4), [[1.0, 1.0, 1.0]] * 2])
def test_a_wrong_shape_or_type_is_noticed(linear):
    missed = torch.zeros(2, 3)
    assert relative_error(missed, torch.ones(2, 3)) == 0
    with pytest.raises(jaxtyping.TypeCheckError, match="linear"):
        relative_error(missed, linear)
