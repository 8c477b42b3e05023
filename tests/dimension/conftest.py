from __future__ import annotations

import pytest
from quick_dimension import quicken


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch.setattr)
