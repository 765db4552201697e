"""Publish: create-only, idempotent, and into ``incoming`` where these keys may not write the registry."""

import json
from pathlib import Path
from typing import Any

import pytest

from nightshift.releases import manifest
from nightshift.releases.errors import ReleaseCorrupt, StoreDenied, StoreUnavailable
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
from pipelines import publish

MODEL = "small"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a packaged release and no settings; it is the working directory."""
    folder = tmp_path / "artifacts/releases" / MODEL
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"a program")
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 1]}
    manifest.write(
        folder,
        manifest.build(
            folder,
            model=MODEL,
            task="image_classification",
            signature={"inputs": [tensor], "outputs": [tensor]},
            input={"kind": "tensor"},
            lineage={},
            verdict="pass",
        ),
    )
    for name in ("NIGHTSHIFT_REGISTRY", "NIGHTSHIFT_WORK", "NIGHTSHIFT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def receipt(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / f"artifacts/receipts/{MODEL}.json").read_text())
    return found


def test_without_a_setting_the_registry_is_a_folder_of_the_checkout(root: Path) -> None:
    publish.main(MODEL)
    digest = receipt(root)["digest"]
    copy = root / ".nightshift/registry/releases" / MODEL / digest
    assert receipt(root) == {"model": MODEL, "digest": digest, "model_digest": manifest.verify(copy).model_digest}


def test_publishing_again_changes_nothing(root: Path) -> None:
    publish.main(MODEL)
    first = {path: path.stat().st_mtime_ns for path in (root / ".nightshift/registry").rglob("*") if path.is_file()}
    said = receipt(root)
    publish.main(MODEL)
    assert first == {
        path: path.stat().st_mtime_ns for path in (root / ".nightshift/registry").rglob("*") if path.is_file()
    }
    assert receipt(root) == said


def test_a_release_that_was_changed_after_packaging_is_refused(root: Path) -> None:
    (root / "artifacts/releases" / MODEL / "model.onnx").write_bytes(b"b program")
    with pytest.raises(ReleaseCorrupt, match=r"model\.onnx"):
        publish.main(MODEL)
    assert not (root / ".nightshift").exists()
    assert not (root / "artifacts/receipts").exists()


def test_a_registry_that_is_away_fails_and_leaves_no_receipt(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "NIGHTSHIFT_REGISTRY": "s3://nightshift-registry",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        publish.main(MODEL)
    assert not (root / "artifacts/receipts").exists()


@pytest.mark.parametrize(("identity", "place"), [("worker", "NIGHTSHIFT_WORK"), ("deployer", "NIGHTSHIFT_REGISTRY")])
def test_who_may_not_write_the_registry_leaves_the_release_for_deploy(
    root: Path, s3: Any, monkeypatch: pytest.MonkeyPatch, identity: str, place: str
) -> None:
    settings = s3.environment(identity)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    publish.main(MODEL)
    url = settings[place] + ("/incoming" if identity == "worker" else "")
    assert Registry(open_store(url)).manifest(MODEL, receipt(root)["digest"]).model == MODEL
    assert receipt(root)["model_digest"]

    if identity == "worker":
        monkeypatch.delenv("NIGHTSHIFT_WORK")
        with pytest.raises(StoreDenied, match="NIGHTSHIFT_WORK"):
            publish.main(MODEL)
