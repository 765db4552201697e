"""predict with texts, rows, a key and a model that takes neither, as typed, against a real endpoint process."""

import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.releases import kinds
from tests.serving.world import Endpoint, World


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Endpoint]]:
    world = World(tmp_path_factory.mktemp("predict"))
    made = {"mood": kinds.text_release, "price": kinds.row_release, "choice": kinds.packed_release}
    digests = {}
    for name, make in (made | {"sum": kinds.tensor_release}).items():
        make(world.folder / name)
        digests[name] = world.registry.publish(world.folder / name)
        world.order(digests[name], "proven", model=name)
    endpoint = world.endpoint().start()
    for name, digest in digests.items():
        endpoint.wait_serving(digest, name)
    yield world, endpoint
    endpoint.stop()
    endpoint.client.close()


def predict(running: tuple[World, Endpoint], *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    settings = {"NIGHTSHIFT_ENDPOINTS": running[1].url, "NIGHTSHIFT_REGISTRY": "", "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "nightshift.cli.main", "predict", *arguments],
        capture_output=True,
        text=True,
        cwd=running[0].folder,
        check=False,
        env={**os.environ, **settings, **environment},
    )


def test_texts_are_typed_as_they_are(running) -> None:
    done = predict(running, "mood", "a lovely day", "awful", "--json")
    assert done.returncode == 0, done.stderr
    good, bad = json.loads(done.stdout)["predictions"]
    assert (good["text"], good["label"]) == ("a lovely day", "good")
    assert good["probability"] == good["probabilities"]["good"] == pytest.approx(0.9526, abs=1e-4)
    assert (bad["text"], bad["label"]) == ("awful", "bad")
    shown = predict(running, "mood", "a lovely day").stdout
    assert "95.3%" in shown
    assert "champion" in shown


def test_a_row_is_typed_by_column_or_as_json(running) -> None:
    row = {"rooms": 12, "area": 40.5, "color": "red"}
    done = predict(running, "price", "rooms=12", "area=40.5", "color=red", "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["predictions"]
    assert answer["values"] == {"price": 1608.0}
    assert json.loads(answer["row"]) == row
    assert answer["notes"] == ["rooms is 12; the greatest that training saw is 9"]
    two = predict(running, "choice", json.dumps(row), json.dumps(row | {"color": "blue"}), "--json")
    assert [each["label"] for each in json.loads(two.stdout)["predictions"]] == ["buy", "buy"]
    shown = predict(running, "price", json.dumps(row)).stdout
    assert "price" in shown
    assert "1608" in shown
    assert "the greatest that training saw is 9" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["price", "rooms"], 2, "'rooms' is no COLUMN=VALUE"),
        (["price", "rooms=1", "rooms=2"], 2, "given twice"),
        (["price", "rooms=many"], 2, "column 'rooms' takes a number, not 'many'"),
        (["price", "{"], 2, "a row is no JSON"),
        (["price", "rooms=1"], 1, "column 'area' is missing"),
        (["mood", " "], 1, "no text"),
        (["sum", "1"], 1, "sum takes tensors only"),
    ],
)
def test_what_is_wrong_is_said_with_the_next_step(running, arguments: list[str], code: int, words: str) -> None:
    done = predict(running, *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "next:" in done.stderr
    assert "/status" not in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost:8000", "ftp://127.0.0.1", "http://127.0.0.1:port"])
def test_what_is_no_url_is_wrong_use(running, url: str) -> None:
    done = predict(running, "mood", "a lovely day", "--url", url)
    assert done.returncode == 2, done.stderr
    assert f"{url} is no URL" in done.stderr
    assert "start it" not in done.stderr


@pytest.fixture
def behind_tls(tmp_path: Path) -> Iterator[str]:
    """The URL of a server with a certificate that nobody signed."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


def test_a_certificate_that_is_not_trusted_leads_to_the_variable_that_names_whom_to_trust(
    running, behind_tls: str, tmp_path: Path
) -> None:
    done = predict(running, "mood", "a lovely day", "--url", behind_tls)
    assert done.returncode == 1
    assert f"the certificate of {behind_tls} is not trusted here" in done.stderr
    assert "NIGHTSHIFT_CA" in done.stderr
    assert "start it" not in done.stderr
    absent = predict(running, "mood", "x", "--url", behind_tls, NIGHTSHIFT_CA=str(tmp_path / "absent.pem"))
    assert absent.stderr.startswith(f"nightshift: {tmp_path / 'absent.pem'} of NIGHTSHIFT_CA cannot be used")
    trusted = predict(running, "mood", "x", "--url", behind_tls, NIGHTSHIFT_CA=str(tmp_path / "cert.pem"))
    assert "answers 501" in trusted.stderr, "it is asked"
