"""What no client of good will sends: malformed bodies by the thousand, broken HTTP, senders that stall."""

import copy
import gzip
import http.client
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest

from tests.serving.slow_release import ROW, make_slow_release
from tests.serving.test_protocol import RAW, binary
from tests.serving.types_release import ONNX, make_types_release
from tests.serving.world import IMAGE, Endpoint, wait_for

VALUES = (
    *(None, True, False, 0, -1, 1, 2, 255, 256, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, 1e39, "", "a", "\0"),
    *("ﬀ" * 50, [], {}, [[]], [[[]]], {"a": []}, [1, [2], 3], [None], [True], ["3"], [{}], [0.5] * 48, [7] * 48),
    *([1] * 3000, [0.1] * 3000, [0.1] * 2999 + [None], [[1] * 48], [-1, 4, 4, 3], [1, 4, 4, 3], [2**62, 4, 4, 3]),
    *("UINT8", "FP32", "BYTES", "BF16", "image", "in_FP32", "probabilities", "binary_data_size"),
)
KEYS = ("inputs", "outputs", "id", "parameters", "name", "datatype", "shape", "data", "binary_data_size", "timeout")
SCRAPS = (
    *(b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\\ud800", b"\0", b"\xff", b"\xef\xbb\xbf", b"NaN", b"1e999"),
    *(b"-", b"9" * 400, b"[" * 2000, b'{"a":' * 2000, b"\n" * 50, b"true", b"null", b"/*", b"Infinity"),
)


@pytest.fixture(scope="module")
def types(served) -> tuple[Endpoint, dict]:
    """The endpoint with a second model, of every datatype, and a good request for it."""
    world, endpoint, _ = served
    folder = world.folder / "types"
    make_types_release(folder)
    digest = world.registry.publish(folder)
    world.order(digest, "proven", model="types")
    endpoint.refresh()
    endpoint.wait_serving(digest, "types")
    good = json.loads((folder / "golden.json").read_text())["cases"][0]["inputs"]
    assert endpoint.infer("types", inputs=good).status_code == 200
    return endpoint, {"inputs": good}


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_no_malformed_body_gets_a_5xx_or_moves_memory(types, count: int) -> None:
    endpoint, good = types
    assert endpoint.process
    process = psutil.Process(endpoint.process.pid)
    rng = random.Random(5)
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=60)
    seen: dict[int, int] = {}
    resident = 0
    for number in range(count):
        if number == count // 4:
            resident = process.memory_info().rss  # whatever grows once, has
        model, body, headers = malformed(rng, good)
        connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        seen[answer.status] = seen.get(answer.status, 0) + 1
        assert answer.status < 500, (number, model, headers, body[:2000], text)
        if answer.status != 200:
            assert isinstance(json.loads(text)["error"], str), (number, text)
    assert seen[400] > count / 2, seen
    assert process.memory_info().rss - resident < 40 << 20
    assert endpoint.infer().status_code == 200


def malformed(rng: random.Random, good: dict) -> tuple[str, bytes, dict[str, str]]:
    """A model, and a request for it with a few things changed in its values, its text or its bytes."""
    model = rng.choice(("toy", "types"))
    if rng.random() < 0.3:
        body, headers = binary(size=rng.choice((48, 48, 0, -1, 47, 2**40, None, "48")), tail=RAW[: rng.choice((48, 7))])
        if rng.random() < 0.5:
            headers = headers | {"inference-header-content-length": str(rng.choice(("0", "-1", "x", "9" * 30, 7, "٣")))}
            headers = {name: value.encode("utf-8").decode("latin-1") for name, value in headers.items()}
    else:
        value = json.loads(json.dumps(good if model == "types" else {"inputs": [IMAGE]}))
        for _ in range(rng.randint(1, 3)):
            spoil(rng, value)
        body, headers = json.dumps(value).encode(), {}
    if rng.random() < 0.4:
        at = rng.randrange(len(body) + 1)
        body = body[:at] + rng.choice(SCRAPS) + body[at + rng.choice((0, 0, 1, 5, 10**6)) :]
    if rng.random() < 0.1:
        body = bytes(rng.randrange(256) for _ in range(rng.randrange(300)))
    if rng.random() < 0.15:
        headers = headers | {"content-encoding": rng.choice(("gzip", "deflate", "br", "gzip, gzip", "x"))}
        body = gzip.compress(body)[: rng.choice((5, 30, 10**9))]
    return model, body, headers


def spoil(rng: random.Random, value: object) -> None:
    """Change one thing somewhere in it: another value, one more key, one key less."""
    while True:
        below = list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list) else []
        inner = [each for each in below if isinstance(each, dict | list) and each]
        if not inner or rng.random() < 0.3:
            break
        value = rng.choice(inner)
    if isinstance(value, dict):
        key = rng.choice([*value, *KEYS])
        if rng.random() < 0.2:
            value.pop(key, None)
        else:
            value[key] = copy.deepcopy(rng.choice(VALUES))
    elif isinstance(value, list) and value:
        value[rng.randrange(len(value))] = copy.deepcopy(rng.choice(VALUES))


@pytest.mark.parametrize("data", [None, [0.5, 0.25, 0.125, 1.0] * 20_000], ids=["raw", "json"])
def test_a_big_request_has_its_memory_only_while_it_is_answered(wide: Endpoint, data: list[float] | None) -> None:
    """Of 20,000 rows, whose layers are of 80 MB each."""
    assert wide.process
    process = psutil.Process(wide.process.pid)
    tensor = {"name": "row", "datatype": "FP32", "shape": [20_000, 4]}
    raw = np.full((20_000, 4), 0.5, np.float32).tobytes()
    body = json.dumps({"inputs": [tensor | {"data": data}]}).encode()
    headers = {}
    if data is None:
        head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
        body, headers = head + raw, {"Inference-Header-Content-Length": str(len(head))}
    resident, most = process.memory_info().rss, 0
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(httpx.post, f"{wide.url}/v2/models/wide/infer", content=body, headers=headers, timeout=60)
        while not asked.done():
            most = max(most, process.memory_info().rss)
            time.sleep(0.01)
    assert asked.result().status_code == 200
    assert most - resident > 80 << 20, "it was no big request"
    wait_for(lambda: process.memory_info().rss - resident < 30 << 20, 10)


@pytest.mark.parametrize("datatype", [name for name in ONNX if name not in ("BOOL", "BYTES")])
@pytest.mark.parametrize("wrong", [[2], None, True, "3", {}])
def test_one_wrong_value_among_thousands_is_refused(types, datatype: str, wrong: object) -> None:
    endpoint, good = types
    inputs = []
    for tensor in good["inputs"]:
        many = tensor["data"] * 1000
        if tensor["name"] == f"in_{datatype}":
            many = [*many[:700], wrong, *many[701:]]
        inputs.append({**tensor, "shape": [1000, 2], "data": many})
    answer = endpoint.infer("types", inputs=inputs)
    assert answer.status_code == 400
    assert f"in_{datatype}" in answer.json()["error"]


POST = b"POST /v2/models/toy/infer HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc\r\n",
        POST + b"Transfer-Encoding: gzip, chunked, x\r\n\r\n0\r\n\r\n",
        POST + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"X : a\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"".join(b"X-%d: y\r\n" % n for n in range(500)) + b"Content-Length: 2\r\n\r\n{}",
        POST + b"X: " + b"y" * (1 << 20) + b"\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v2/%ff%00/../../etc HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
        b"BREW /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"\0" * 5000,
    ],
    ids=range(20),
)
def test_broken_http_is_refused_or_cut_off_and_nobody_else_notices(types, data: bytes) -> None:
    endpoint, _ = types
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=30) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except OSError:  # it did not even want to hear all of it
            answer = b""
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:200]
    assert endpoint.infer().status_code == 200


def test_who_stalls_keeps_nobody_out(slow: Endpoint) -> None:
    """Headers without a body hold a place for a moment only."""
    endpoint = slow
    head = POST.replace(b"toy", b"slow") + b"Content-Length: 9\r\n\r\n{}"
    stalled = [socket.create_connection(("127.0.0.1", endpoint.port), timeout=30) for _ in range(60)]
    try:
        for connection in stalled:
            connection.sendall(head)
        # Their bodies may take ten seconds; if they held their places so long, this would be refused so long.
        wait_for(lambda: endpoint.infer("slow", inputs=[ROW]).status_code == 200, 8)
    finally:
        for connection in stalled:
            connection.close()


@pytest.fixture(scope="module")
def slow(served) -> Endpoint:
    return ordered(served, "slow", layers=200)


@pytest.fixture(scope="module")
def wide(served) -> Endpoint:
    return ordered(served, "wide", layers=1)


def ordered(served, name: str, layers: int) -> Endpoint:
    world, endpoint, _ = served
    make_slow_release(world.folder / name, layers=layers, model=name)
    digest = world.registry.publish(world.folder / name)
    world.order(digest, "proven", model=name)
    endpoint.refresh()
    endpoint.wait_serving(digest, name)
    return endpoint
