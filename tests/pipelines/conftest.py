from pathlib import Path

import pytest


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    """An empty landing zone."""
    folder = tmp_path / "landing"
    folder.mkdir()
    return folder
