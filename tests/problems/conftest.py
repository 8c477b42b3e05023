import pytest


@pytest.fixture(scope="module")
def backbone():
    from tiny_models import tiny  # when it is asked for: a plugin may add families first

    return tiny("bert")
