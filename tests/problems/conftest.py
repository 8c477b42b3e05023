import pytest
from tiny_models import tiny


@pytest.fixture(scope="module")
def backbone():
    return tiny("bert")
