"""``nightshift serve`` before it serves: what it cannot work with is named."""

from pathlib import Path

import pytest

from nightshift.errors import NightshiftError
from nightshift.stack.processes import free_ports
from tests.cli.typed import run


def test_a_cache_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (port,) = free_ports(1)
    with pytest.raises(NightshiftError, match="file: File exists"):
        run("serve", "--registry", str(tmp_path), "--cache", str(tmp_path / "file"), "--port", str(port))
