"""The Open Inference Protocol over HTTP, good requests and bad ones, against a real endpoint process."""

import gzip
import io
import json
import re
import socket
import time
import zlib

import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from nightshift.serving import protocol
from nightshift.serving.front import EXTENSIONS
from tests.releases.make import LABELS
from tests.serving.world import IMAGE, golden_of


def test_an_answer_is_the_programs_own_and_names_its_release(served) -> None:
    world, endpoint, digest = served
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    answer = endpoint.infer(
        id="7",
        inputs=[{"name": "image", "datatype": "UINT8", "shape": [5, 4, 4, 3], "data": images.ravel().tolist()}],
    )
    assert answer.status_code == 200
    assert answer.headers["nightshift-model"] == "toy"
    assert answer.headers["nightshift-digest"] == digest
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("toy", digest[:12], "7")
    (output,) = body["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [5, 3])
    session = onnxruntime.InferenceSession(str(world.folder / "release-1" / "model.onnx"))
    (expected,) = session.run(None, {"image": images})
    np.testing.assert_allclose(np.array(output["data"]).reshape(5, 3), expected, atol=1e-6)


def test_nested_data_flat_data_and_one_request_in_a_batch_answer_the_same(served) -> None:
    _, endpoint, _ = served
    nested = np.arange(48).reshape(1, 4, 4, 3).tolist()
    flat = endpoint.infer().json()["outputs"]
    assert endpoint.infer(inputs=[{**IMAGE, "data": nested}]).json()["outputs"] == flat


@pytest.mark.parametrize("version", ["short", "full"])
def test_a_release_answers_under_its_version(served, version: str) -> None:
    _, endpoint, digest = served
    answer = endpoint.infer(version=digest[:12] if version == "short" else digest)
    assert (answer.status_code, answer.headers["nightshift-digest"]) == (200, digest)


def test_metadata_says_what_a_client_must_send_and_how_a_picture_becomes_it(served) -> None:
    _, endpoint, digest = served
    about = endpoint.client.get("/v2/models/toy").json()
    assert about["name"] == "toy"
    assert about["versions"] == [digest[:12]]
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 4, 4, 3]}]
    assert about["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]
    assert about["parameters"]["kind"] == "image"
    assert about["parameters"]["labels"] == list(LABELS)
    assert endpoint.client.get(f"/v2/models/toy/versions/{digest[:12]}").json() == about
    server = endpoint.client.get("/v2").json()
    assert server["name"] == "nightshift"
    assert server["extensions"] == EXTENSIONS


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/models/toy/ready"])
def test_alive_ready_and_model_ready_are_200(served, path: str) -> None:
    _, endpoint, _ = served
    assert endpoint.client.get(path).status_code == 200
    assert endpoint.client.head(path).status_code == 200


def test_status_says_what_serves_by_which_order(served) -> None:
    world, endpoint, digest = served
    status = endpoint.status()
    assert status["models"]["toy"] == {
        "serving": digest,
        "sequence": 1,
        "refused": None,
        "retired": None,
        "signed_by": None,
        "canary": None,
    }
    assert status["registry"] == world.store.url
    assert status["problem"] is None


def test_golden_requests_of_the_release_agree_over_the_wire(served) -> None:
    world, endpoint, digest = served
    for case in golden_of(world, digest)["cases"]:
        answer = endpoint.infer(inputs=case["inputs"]).json()
        np.testing.assert_allclose(answer["outputs"][0]["data"], case["outputs"][0]["data"], atol=1e-4)


def image(**changes: object) -> dict:
    tensor = {**IMAGE, **changes}
    return {"inputs": [{key: value for key, value in tensor.items() if value is not ...}]}


BAD = {
    "not an object": ([], "JSON object"),
    "no inputs": ({}, "'inputs' is missing"),
    "inputs no list": ({"inputs": {}}, "'inputs' must be a list"),
    "no tensor": ({"inputs": []}, "'image' is missing"),
    "a tensor that is a number": ({"inputs": [3]}, r"inputs\[0\]"),
    "no name": (image(name=...), r"inputs\[0\] has no name"),
    "wrong name": (image(name="picture"), "no input 'picture': this model has image"),
    "given twice": ({"inputs": [IMAGE, IMAGE]}, "'image' is given twice"),
    "wrong datatype": (image(datatype="FP32"), "'image' has datatype 'FP32', must be UINT8"),
    "unknown datatype": (image(datatype="FLOAT"), "'image' has datatype 'FLOAT'"),
    "no datatype": (image(datatype=...), "'image' has datatype None"),
    "no shape": (image(shape=...), "'image' needs a shape"),
    "wrong shape": (image(shape=[1, 3, 4, 4]), r"'image' has shape \[1, 3, 4, 4\], must be \[-1, 4, 4, 3\]"),
    "wrong rank": (image(shape=[48]), r"'image' has shape \[48\]"),
    "no rows": (image(shape=[0, 4, 4, 3], data=[]), r"'image' has shape \[0, 4, 4, 3\]"),
    "negative": (image(shape=[-1, 4, 4, 3]), r"'image' has shape \[-1, 4, 4, 3\]"),
    "absurd shape": (image(shape=[2**62, 4, 4, 3]), "'image' has shape"),
    "shape with a fraction": (image(shape=[1.0, 4, 4, 3]), "'image' needs a shape"),
    "shape with true": (image(shape=[True, 4, 4, 3]), "'image' needs a shape"),
    "no data": (image(data=...), "'image' has no data"),
    "data no list": (image(data="abc"), "data of input 'image' must be a list"),
    "too few values": (image(data=[1] * 47), r"'image' has 47 values, .* needs 48"),
    "too many values": (image(data=[1] * 49), "'image' has 49 values"),
    "null": (image(data=[None] + [1] * 47), "'image' holds null; UINT8 needs integers"),
    "a string": (image(data=["3"] + [1] * 47), "'image' holds a string"),
    "true": (image(data=[True] + [1] * 47), "'image' holds a boolean"),
    "a fraction": (image(data=[0.5] + [1] * 47), "'image' holds a fraction"),
    "over the range": (image(data=[256] + [1] * 47), "'image' has a value that is out of the range of UINT8"),
    "under the range": (image(data=[-1] + [1] * 47), "'image' has a value that is out of the range"),
    "an enormous number": (image(data=[2**63] + [1] * 47), "'image' has a value that is out of the range"),
    "nested wrongly": (image(data=[[1] * 48]), "'image' is not nested like its shape"),
    "nested unevenly": (image(data=[[[[1] * 3] * 4] * 3 + [[[1] * 3] * 3]]), "'image' is not nested like its shape"),
    "an unknown output": ({**image(), "outputs": [{"name": "logits"}]}, "no output 'logits'"),
    "outputs no list": ({**image(), "outputs": "probabilities"}, "'outputs' must be a list"),
    "an output twice": ({**image(), "outputs": [{"name": "probabilities"}] * 2}, "one output twice"),
    "id a number": ({**image(), "id": 7}, "'id' must be a string"),
    "parameters no object": ({**image(), "parameters": []}, "'parameters' of the request must be an object"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_400_and_names_the_field(served, case: str) -> None:
    _, endpoint, digest = served
    body, words = BAD[case]
    answer = endpoint.client.post("/v2/models/toy/infer", json=body)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    assert re.search(words, answer.json()["error"])
    assert answer.headers["nightshift-digest"] == digest


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (image(name="\x7f" * 1_000_000), "there is no input '.*': this model has image"),
        (image(datatype="\x7f" * 1_000_000), "has datatype '.*', must be UINT8"),
        (image(datatype=[["\x7f" * 1000] * 100] * 100), "has datatype .*…$"),
        (image(shape=[1] * 1_000_000), r"has shape \[1, 1, .*\], must be \[-1, 4, 4, 3\]"),
        ({**image(), "outputs": [{"name": "\x7f" * 1_000_000}]}, "no output '.*': this model has probabilities"),
    ],
    ids=["name", "datatype", "nested", "shape", "output"],
)
def test_a_fault_repeats_little_of_what_was_sent(served, body: dict, words: str) -> None:
    _, endpoint, _ = served
    answer = endpoint.client.post("/v2/models/toy/infer", json=body)
    assert answer.status_code == 400
    assert re.search(words, answer.json()["error"])
    assert len(answer.json()["error"]) <= 1001


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b'{"inputs": [', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (json.dumps(image()).replace("[0, 1", "[NaN, 1").encode(), "not JSON"),
        (json.dumps(image()).replace("[0, 1", "[1e999, 1").encode(), "not JSON|fraction|finite"),
    ],
    ids=["empty", "cut", "not text", "200,000 deep", "NaN", "infinite"],
)
def test_a_body_that_is_no_json_is_400(served, body: bytes, words: str) -> None:
    _, endpoint, _ = served
    answer = endpoint.client.post("/v2/models/toy/infer", content=body)
    assert answer.status_code == 400
    assert re.search(words, answer.json()["error"])


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v2/models/nobody/infer", 404, r"no model 'nobody' here \(models: toy\)"),
        ("POST", "/v2/models/toy/versions/abc/infer", 404, "no version 'abc'"),
        ("GET", "/v2/models/nobody/ready", 404, "nobody"),
        ("GET", "/v2/models/toy/trace", 404, "there is no"),
        ("POST", "/v2/repository/models/toy/load", 403, "nightshift promote MODEL DIGEST"),
        ("POST", "/v2/repository/models/toy/unload", 403, "only the ledger"),
        ("GET", "/v2/repository/index", 405, "use POST"),
        ("GET", "/v2/models", 404, "there is no"),
        ("GET", "/v2/x", 404, "there is no"),
        ("GET", "/v2/models/toy/infer", 405, "use POST"),
        ("POST", "/v2/models/toy", 405, "use GET"),
        ("DELETE", "/v2/health/live", 405, "use GET"),
        ("GET", "/refresh", 405, "use POST"),
    ],
)
def test_what_is_not_there_says_so_in_the_protocols_form(served, method, path, status, words) -> None:
    _, endpoint, _ = served
    answer = endpoint.client.request(method, path)
    assert answer.status_code == status
    assert re.search(words, answer.json()["error"])
    assert ("allow" in answer.headers) is (status == 405)


RAW = bytes(range(48))


def binary(*, output: dict | None = None, size: int | None = 48, tail: bytes = RAW, **request) -> tuple[bytes, dict]:
    """A request in the binary-tensor extension, and its headers."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 4, 3], "parameters": {"binary_data_size": size}}
    asked = {"inputs": [tensor], **request}
    if output is not None:
        asked["outputs"] = [{"name": "probabilities", "parameters": output}]
    text = json.dumps(asked).encode()
    return text + tail, {"inference-header-content-length": str(len(text))}


def test_raw_tensors_in_and_out_are_the_same_as_in_json(served) -> None:
    _, endpoint, digest = served
    expected = endpoint.infer(inputs=[{**IMAGE, "data": list(RAW)}]).json()["outputs"][0]["data"]
    body, headers = binary(id="8", parameters={"binary_data_output": True})
    answer = endpoint.client.post(
        "/v2/models/toy/infer", content=body, headers=headers
    )  # no content type, as clients do
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    length = int(answer.headers["inference-header-content-length"])
    said = json.loads(answer.content[:length])
    assert (said["id"], said["model_version"]) == ("8", digest[:12])
    assert said["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == pytest.approx(expected)


def test_an_outputs_own_flag_wins(served) -> None:
    _, endpoint, _ = served
    body, headers = binary(output={"binary_data": False}, parameters={"binary_data_output": True})
    answer = endpoint.client.post("/v2/models/toy/infer", content=body, headers=headers)
    assert "inference-header-content-length" not in answer.headers
    assert len(answer.json()["outputs"][0]["data"]) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (binary(size=47, tail=RAW[:47]), "has 47 bytes, its shape"),
        (binary(size=48, tail=RAW[:40]), "needs 48 bytes after the JSON, and 40 are left"),
        (binary(tail=RAW + b"x"), "1 bytes beyond its tensors"),
        (binary(size=-1), "binary_data_size must be"),
        (binary(size=None), "binary_data_size must be"),
        ((b"{}", {"inference-header-content-length": "0"}), "Inference-Header-Content-Length"),
        ((b"{}", {"inference-header-content-length": "3"}), "the body has 2 bytes"),
        ((b"{}", {"inference-header-content-length": "abc"}), "must be a number of bytes"),
        ((b"{}", {"inference-header-content-length": "-1"}), "must be a number of bytes"),
    ],
)
def test_raw_tensors_that_do_not_fit_are_refused_by_name(served, body, words) -> None:
    _, endpoint, _ = served
    answer = endpoint.client.post("/v2/models/toy/infer", content=body[0], headers=body[1])
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_the_best_classes_come_with_score_place_and_label(served) -> None:
    _, endpoint, _ = served
    scores = endpoint.infer().json()["outputs"][0]["data"]
    asked = [{"name": "probabilities", "parameters": {"classification": 2}}]
    (output,) = endpoint.infer(inputs=[IMAGE], outputs=asked).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    best = sorted(range(3), key=lambda i: -scores[i])[:2]
    assert output["data"] == [f"{scores[i]:f}:{i}:{LABELS[i]}" for i in best]
    wrong = [{"name": "probabilities", "parameters": {"classification": "2"}}]
    asked[0]["parameters"]["binary_data"] = True
    answer = endpoint.infer(inputs=[IMAGE], outputs=asked)
    tail = answer.content[int(answer.headers["inference-header-content-length"]) :]
    assert tail[4 : 4 + tail[0]].decode() == output["data"][0]
    assert endpoint.infer(inputs=[IMAGE], outputs=wrong).status_code == 400


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 4)])
def test_the_best_classes_are_those_of_a_stable_sort(shape: tuple[int, ...]) -> None:
    scores = np.random.default_rng(2).integers(0, 3, shape).astype(np.float32)
    labels = LABELS if shape[-1] == len(LABELS) else ()
    found = protocol.best("scores", scores, 2, labels)
    assert found.shape == (*shape[:-1], 2)
    for row, texts in zip(scores.reshape(-1, shape[-1]), found.reshape(-1, 2), strict=True):
        places = sorted(range(len(row)), key=lambda place, row=row: -row[place])[:2]
        assert list(texts) == [f"{row[i]:f}:{i}" + (f":{labels[i]}" if labels else "") for i in places]


def test_a_long_answer_is_that_of_its_parts_however_it_is_asked_for(served) -> None:
    _, endpoint, _ = served
    images = np.random.default_rng(3).integers(0, 256, (6000, 4, 4, 3), dtype=np.uint8)
    for output in ({}, {"classification": 3}, {"binary_data": True}, {"classification": 3, "binary_data": True}):
        asked = {"name": "probabilities", "parameters": output}
        whole = endpoint.client.post("/v2/models/toy/infer", **_raw(images, asked))
        first = endpoint.client.post("/v2/models/toy/infer", **_raw(images[:50], asked))
        assert (whole.status_code, first.status_code) == (200, 200)
        if "binary_data" in output:
            start, end = (int(answer.headers["inference-header-content-length"]) for answer in (whole, first))
            assert whole.content[start:].startswith(first.content[end:])
        else:
            (many,), (few,) = whole.json()["outputs"], first.json()["outputs"]
            assert (many["shape"], many["data"][:150]) == ([6000, 3], few["data"])


def _raw(images: np.ndarray, output: dict) -> dict:
    """A request for this output with these images behind its JSON."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": images.shape}
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": images.nbytes}}], "outputs": [output]}
    text = json.dumps(head).encode()
    return {"content": text + images.tobytes(), "headers": {"inference-header-content-length": str(len(text))}}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_requests_are_understood(served, encoding: str) -> None:
    _, endpoint, _ = served
    text = json.dumps({"inputs": [{**IMAGE, "data": list(RAW)}]}).encode()
    packed = gzip.compress(text) if encoding == "gzip" else zlib.compress(text)
    answer = endpoint.client.post("/v2/models/toy/infer", content=packed, headers={"content-encoding": encoding})
    assert answer.json()["outputs"] == endpoint.infer(inputs=[{**IMAGE, "data": list(RAW)}]).json()["outputs"]
    body, headers = binary()  # the length is that of the JSON as it was
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    answer = endpoint.client.post(
        "/v2/models/toy/infer", content=packed, headers=headers | {"content-encoding": encoding}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_persons_picture_may_be_compressed_too(served, encoding: str) -> None:
    _, endpoint, _ = served
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (7, 7, 7)).save(file, "BMP")
    packed = gzip.compress(file.getvalue()) if encoding == "gzip" else zlib.compress(file.getvalue())
    path, headers = "/v1/models/toy:predict", {"content-encoding": encoding}
    answer = endpoint.client.post(path, content=packed, headers=headers)
    plain = endpoint.client.post(path, content=file.getvalue())
    assert (answer.status_code, plain.status_code) == (200, 200)
    assert answer.json()["predictions"] == plain.json()["predictions"]


@pytest.mark.parametrize(
    ("body", "encoding", "status", "words"),
    [
        (b"{}", "br", 415, "send gzip, deflate or none"),
        (b"{}", "gzip", 400, "not gzip"),
        (gzip.compress(b"{}")[:-3], "gzip", 400, "not one whole gzip stream"),
        (gzip.compress(b"{}") + b"x", "gzip", 400, "not one whole gzip stream"),
        (gzip.compress(bytes(40 << 20)), "gzip", 413, "inflates to more than 32 MiB"),
    ],
    ids=["unknown", "none", "cut off", "more behind it", "a bomb"],
)
@pytest.mark.parametrize("path", ["/v2/models/toy/infer", "/v1/models/toy:predict"])
def test_what_is_not_compressed_as_it_says_is_refused(served, path, body, encoding, status, words) -> None:
    _, endpoint, _ = served
    answer = endpoint.client.post(path, content=body, headers={"content-encoding": encoding})
    assert (answer.status_code, words in answer.json()["error"]) == (status, True)


def test_a_long_answer_is_compressed_for_who_asks(served) -> None:
    _, endpoint, _ = served
    many = [{"name": "image", "datatype": "UINT8", "shape": [200, 4, 4, 3], "data": [7] * 9600}]
    plain = endpoint.client.post("/v2/models/toy/infer", json={"inputs": many}, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    packed = endpoint.client.post("/v2/models/toy/infer", json={"inputs": many}, headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["outputs"][0]["shape"] == plain.json()["outputs"][0]["shape"]


def test_the_repository_lists_what_serves(served) -> None:
    _, endpoint, digest = served
    assert endpoint.client.post("/v2/repository/index").json() == [
        {"name": "toy", "version": digest[:12], "state": "READY", "reason": ""}
    ]
    config = endpoint.client.get("/v2/models/toy/config").json()
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [-1, 4, 4, 3]}]


def test_who_asks_and_in_which_role_stands_in_the_answers_headers(served) -> None:
    _, endpoint, digest = served
    assert endpoint.infer().headers["nightshift-role"] == "champion"
    assert endpoint.infer(version=digest[:12]).headers["nightshift-role"] == "pinned"
    assert endpoint.infer().headers["x-request-id"]


def test_a_body_that_is_too_big_is_413_before_it_is_read(served) -> None:
    _, endpoint, _ = served

    def parts():
        for _ in range(40):
            yield b" " * (1 << 20)

    declared = send_raw(
        endpoint.port, b"POST /v2/models/toy/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    )
    assert b" 413 " in declared
    assert b"32 MiB" in declared
    try:
        answer = httpx.post(f"{endpoint.url}/v2/models/toy/infer", content=parts())
    except httpx.TransportError:
        pass  # refused while still sending: the server closed the connection
    else:
        assert answer.status_code == 413
    assert endpoint.infer().status_code == 200


def test_a_chunk_that_is_none_is_400_and_the_endpoint_lives(served) -> None:
    _, endpoint, _ = served
    answer = send_raw(
        endpoint.port,
        b"POST /v2/models/toy/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n",
    )
    assert b" 400 " in answer
    assert endpoint.infer().status_code == 200


@pytest.mark.long
def test_a_body_that_stops_coming_is_408_after_ten_seconds(served) -> None:
    _, endpoint, _ = served
    started = time.monotonic()
    answer = send_raw(
        endpoint.port,
        b"POST /v2/models/toy/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{}",
        seconds=15,
    )
    assert b" 408 " in answer
    assert 9 < time.monotonic() - started < 14


def send_raw(port: int, data: bytes, seconds: float = 5) -> bytes:
    """What the endpoint sends back first to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        return connection.recv(65536)
