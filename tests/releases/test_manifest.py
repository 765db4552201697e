import json
from pathlib import Path

import pytest

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import FormatTooNew, ReleaseCorrupt
from tests.releases.make import make_release


def edit(folder: Path, **changes: object) -> None:
    path = folder / manifests.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_same_files_give_the_same_digest_in_another_folder(tmp_path: Path) -> None:
    assert make_release(tmp_path / "a") == make_release(tmp_path / "b")


def test_a_dumped_manifest_loads_as_itself_with_fields_of_a_later_format_kept(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    data = (tmp_path / "r" / manifests.NAME).read_bytes()
    assert manifests.dump(manifests.load(data)) == data
    later = json.dumps({**json.loads(data), "energy": {"joule": 3}}).encode()
    assert json.loads(manifests.dump(manifests.load(later)))["energy"] == {"joule": 3}


def test_the_model_digest_is_of_what_decides_the_answers(tmp_path: Path) -> None:
    for name, settings in {"a": {}, "card": {"card": "another"}, "weights": {"seed": 1}}.items():
        make_release(tmp_path / name, **settings)
    a, card, weights = (manifests.verify(tmp_path / name).model_digest for name in ("a", "card", "weights"))
    assert a == card
    assert a != weights


@pytest.mark.parametrize("file", ["model.onnx", "golden.json", "decision.json", "model_card.md"])
def test_a_changed_byte_is_found_and_the_file_named(tmp_path: Path, file: str) -> None:
    make_release(tmp_path / "r")
    data = bytearray((tmp_path / "r" / file).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "r" / file).write_bytes(data)
    with pytest.raises(ReleaseCorrupt, match=file):
        manifests.verify(tmp_path / "r")


def test_a_missing_and_a_cut_file_are_found(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    card = tmp_path / "r" / "model_card.md"
    card.write_text("a")
    with pytest.raises(ReleaseCorrupt, match=r"model_card\.md has 1 bytes"):
        manifests.verify(tmp_path / "r")
    card.unlink()
    with pytest.raises(ReleaseCorrupt, match=r"model_card\.md is missing"):
        manifests.verify(tmp_path / "r")


def test_a_link_is_no_file_of_a_release(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    card = tmp_path / "r" / "model_card.md"
    (tmp_path / "elsewhere").write_bytes(card.read_bytes())
    card.unlink()
    card.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseCorrupt, match=r"model_card\.md"):
        manifests.verify(tmp_path / "r")


def test_a_claimed_model_digest_is_checked(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    edit(tmp_path / "r", model_digest="0" * 64)
    with pytest.raises(ReleaseCorrupt, match="model_digest"):
        manifests.verify(tmp_path / "r")


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    edit(tmp_path / "r", format=2)
    with pytest.raises(FormatTooNew, match="format 2") as caught:
        manifests.verify(tmp_path / "r")
    assert "upgrade" in caught.value.next_step


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a//b", "", "manifest.json", "a\\b"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    make_release(tmp_path / "r")
    edit(tmp_path / "r", files=[{"path": path, "size": 0, "sha256": "0" * 64}])
    with pytest.raises(ReleaseCorrupt, match=r"files\.0\.path"):
        manifests.verify(tmp_path / "r")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"{}", b"\xff"])
def test_bytes_that_are_no_manifest_are_corrupt(data: bytes) -> None:
    with pytest.raises(ReleaseCorrupt, match=manifests.NAME):
        manifests.load(data)


def test_a_folder_without_a_program_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(ReleaseCorrupt, match=r"model\.onnx"):
        manifests.build(tmp_path, model="m", task="t", signature={}, input={}, lineage={}, verdict="pass")


@pytest.mark.parametrize("written", ["{", "[]", "{}"])
def test_a_manifest_that_is_none_is_named_with_its_folder(tmp_path: Path, written: str) -> None:
    make_release(tmp_path / "r")
    path = tmp_path / "r" / manifests.NAME
    path.write_text(written)
    with pytest.raises(ReleaseCorrupt) as wrong:
        manifests.verify(tmp_path / "r")
    assert wrong.value.message.startswith(f"{path} is ")
