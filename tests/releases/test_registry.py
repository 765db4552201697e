import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseConflict, ReleaseCorrupt, ReleaseUnknown
from nightshift.releases.registry import Registry, ReleaseInfo
from nightshift.releases.store import open_store
from tests.releases.make import make_release


@pytest.fixture(params=["folder", "s3"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    if request.param == "folder":
        yield Registry(open_store(str(tmp_path / "registry")))
        return
    server = request.getfixturevalue("s3")
    for name, value in server.environment("deployer").items():
        monkeypatch.setenv(name, value)
    yield Registry(open_store(f"s3://{server.registry}/registry-{uuid4().hex}"))


def test_a_published_release_is_listed_found_and_fetched_byte_for_byte(registry: Registry, tmp_path: Path) -> None:
    digest = make_release(tmp_path / "r")
    assert registry.publish(tmp_path / "r") == digest
    assert registry.list() == registry.list("toy") == [ReleaseInfo("toy", digest)]
    assert registry.list("to") == []
    assert registry.resolve("toy", digest[:12]) == digest
    assert registry.find(digest[:6]) == ReleaseInfo("toy", digest)
    assert registry.manifest("toy", digest[:12]).verdict == "pass"
    fetched = registry.fetch("toy", digest, tmp_path / "copies")
    assert fetched == tmp_path / "copies" / "toy" / digest
    for path in (tmp_path / "r").iterdir():
        assert (fetched / path.name).read_bytes() == path.read_bytes()


def test_a_file_that_a_release_does_not_have_is_not_called_damaged(registry: Registry, tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    (tmp_path / "r" / "golden.json").unlink()
    manifest = manifests.load((tmp_path / "r" / manifests.NAME).read_bytes())
    files = tuple(file for file in manifest.files if file.path != "golden.json")
    manifests.write(tmp_path / "r", manifest.model_copy(update={"files": files}))
    digest = registry.publish(tmp_path / "r")
    with pytest.raises(ReleaseCorrupt, match=rf"{digest[:12]} of toy has no golden\.json"):
        registry.read("toy", digest, "golden.json")


def test_publishing_again_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    registry.publish(tmp_path / "r")
    keys = registry.store.list("")
    registry.publish(tmp_path / "r")
    assert registry.store.list("") == keys


def test_a_damaged_folder_is_not_published(registry: Registry, tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    (tmp_path / "r" / "model_card.md").write_text("b toy\n")
    with pytest.raises(ReleaseCorrupt, match=r"model_card\.md"):
        registry.publish(tmp_path / "r")
    assert registry.store.list("") == []


def test_other_bytes_under_a_releases_name_stop_publishing(registry: Registry, tmp_path: Path) -> None:
    digest = make_release(tmp_path / "r")
    registry.store.put(f"releases/toy/{digest}/golden.json", b"{}")
    with pytest.raises(ReleaseConflict, match=r"golden\.json"):
        registry.publish(tmp_path / "r")
    assert registry.list() == []


def test_a_half_published_release_is_invisible_and_publishing_again_finishes_it(
    registry: Registry, tmp_path: Path
) -> None:
    digest = make_release(tmp_path / "r")
    registry.store.put_new_file(f"releases/toy/{digest}/model.onnx", tmp_path / "r" / "model.onnx")
    assert registry.list() == []
    with pytest.raises(ReleaseUnknown):
        registry.fetch("toy", digest, tmp_path / "copies")
    registry.publish(tmp_path / "r")
    registry.fetch("toy", digest, tmp_path / "copies")


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json"])
def test_a_file_damaged_in_the_registry_is_not_fetched(registry: Registry, tmp_path: Path, file: str) -> None:
    digest = make_release(tmp_path / "r")
    registry.publish(tmp_path / "r")
    registry.store.put(f"releases/toy/{digest}/{file}", b"{}")
    with pytest.raises(ReleaseCorrupt, match=file):
        registry.fetch("toy", digest, tmp_path / "copies")
    assert not (tmp_path / "copies" / "toy" / digest).exists()
    assert list((tmp_path / "copies").glob("toy/*")) == []


def test_a_damaged_local_copy_is_fetched_again(registry: Registry, tmp_path: Path) -> None:
    digest = make_release(tmp_path / "r")
    registry.publish(tmp_path / "r")
    copy = registry.fetch("toy", digest, tmp_path / "copies")
    (copy / "model.onnx").write_bytes(b"damaged")
    copy = registry.fetch("toy", digest, tmp_path / "copies")
    assert (copy / "model.onnx").read_bytes() == (tmp_path / "r" / "model.onnx").read_bytes()


def test_a_whole_local_copy_needs_no_store(tmp_path: Path) -> None:
    registry = Registry(open_store(str(tmp_path / "registry")))
    digest = make_release(tmp_path / "r")
    registry.publish(tmp_path / "r")
    registry.fetch("toy", digest, tmp_path / "copies")
    shutil.rmtree(tmp_path / "registry")
    registry.fetch("toy", digest, tmp_path / "copies")


@pytest.mark.parametrize(("prefix", "words"), [("zzzz", "no digest"), ("abc", "no digest"), ("0000", "no release")])
def test_a_prefix_that_names_nothing_says_what_to_type(tmp_path: Path, prefix: str, words: str) -> None:
    registry = Registry(open_store(str(tmp_path / "registry")))
    with pytest.raises(ReleaseUnknown, match=words) as caught:
        registry.resolve("toy", prefix)
    assert "nightshift releases" in caught.value.next_step


def test_a_prefix_that_several_releases_share_asks_for_more(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for last in "12":
        store.put(f"releases/toy/{'a' * 63}{last}/manifest.json", b"{}")
    with pytest.raises(ReleaseUnknown, match="may be any"):
        Registry(store).find("aaaaaa")


SLOW_PUBLISHER = """
import sys, time
from pathlib import Path
from nightshift.releases.registry import Registry
from nightshift.releases.store import FolderStore

class Slow(FolderStore):
    def put_new_file(self, key, path):
        done = super().put_new_file(key, path)
        print(key, flush=True)
        time.sleep(30)
        return done

Registry(Slow(Path(sys.argv[1]))).publish(Path(sys.argv[2]))
"""


def test_a_publisher_killed_half_way_leaves_nothing_visible(tmp_path: Path) -> None:
    digest = make_release(tmp_path / "r")
    publisher = subprocess.Popen(
        [sys.executable, "-c", SLOW_PUBLISHER, str(tmp_path / "registry"), str(tmp_path / "r")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert publisher.stdout
    assert publisher.stdout.readline().startswith("releases/toy/")
    publisher.send_signal(signal.SIGKILL)
    publisher.wait()
    publisher.stdout.close()
    registry = Registry(open_store(str(tmp_path / "registry")))
    assert len(registry.store.list("")) == 1
    assert registry.list() == []
    assert registry.publish(tmp_path / "r") == digest
    registry.fetch("toy", digest, tmp_path / "copies")
