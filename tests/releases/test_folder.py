"""A folder of releases serves without a ledger, as long as there is nothing to choose."""

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from nightshift.releases.errors import ReleaseConflict, ReleaseCorrupt, ReleaseUnknown
from nightshift.releases.folder import registry_of
from nightshift.releases.ledger import Ledger
from nightshift.releases.store import open_store
from tests.releases.make import make_release
from tests.serving.world import free_port, wait_for


def test_the_one_release_of_a_model_is_ordered_and_again_changes_nothing(tmp_path: Path) -> None:
    digest = make_release(tmp_path / "stick" / "deep" / "down")
    for _ in range(2):
        assert registry_of(tmp_path / "stick", tmp_path / "registry") == {"toy": digest}
    (order,) = Ledger(open_store(str(tmp_path / "registry"))).orders("toy")
    assert order.digest == digest
    assert "stick" in order.reason


def test_of_two_releases_of_a_model_none_is_chosen(tmp_path: Path) -> None:
    digests = [make_release(tmp_path / "stick" / name, seed=seed) for seed, name in enumerate("ab")]
    with pytest.raises(ReleaseConflict) as raised:
        registry_of(tmp_path / "stick", tmp_path / "registry")
    assert all(digest[:12] in raised.value.message for digest in digests)
    assert not (tmp_path / "registry").exists()
    shutil.rmtree(tmp_path / "stick" / "b")
    shutil.copytree(tmp_path / "stick" / "a", tmp_path / "stick" / "copy")  # the same release twice is one
    assert registry_of(tmp_path / "stick", tmp_path / "registry") == {"toy": digests[0]}


def test_a_folder_without_a_release_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseUnknown, match="holds no release"):
        registry_of(tmp_path, tmp_path / "registry")
    make_release(tmp_path / "stick")
    (tmp_path / "stick" / "model.onnx").write_bytes(b"other")
    with pytest.raises(ReleaseCorrupt, match=r"model\.onnx"):
        registry_of(tmp_path / "stick", tmp_path / "registry")


def test_an_endpoint_serves_a_folder_of_releases(tmp_path: Path) -> None:
    digest = make_release(tmp_path / "stick")
    port = free_port()
    command = [sys.executable, "-m", "nightshift.cli.main", "serve", "--releases", str(tmp_path / "stick")]
    process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.PIPE, cwd=tmp_path)
    try:

        def serves() -> httpx.Response | None:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/v2/models/toy/ready", timeout=5, trust_env=False)
            except httpx.HTTPError:
                return None
            return answer if answer.status_code == 200 else None

        assert wait_for(serves).headers["nightshift-digest"] == digest
    finally:
        process.terminate()
        process.wait(30)
