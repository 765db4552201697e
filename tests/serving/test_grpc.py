"""The protocol over gRPC, good requests and bad ones, against a real endpoint process."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from nightshift.releases.marks import Marks
from nightshift.releases.store import open_store
from nightshift.serving import health_pb2, http2, inference_pb2
from nightshift.serving.inference import WAIT_S
from nightshift.serving.keys import Keys
from tests.releases.make import LABELS
from tests.serving.slow_release import ROW, make_slow_release
from tests.serving.world import ADMIN, IMAGE, Endpoint, World, wait_for

SERVICE = "/inference.GRPCInferenceService/"
PIXELS = bytes(IMAGE["data"])


class Client:
    """Calls by method and message; a refusal is an exception with code, details and trailers."""

    def __init__(self, channel: grpc.Channel):
        self.channel = channel

    def call(self, method: str, metadata: dict[str, str] | None = None, timeout: float = 60, **fields: Any) -> Any:
        return self.call_with(method, metadata, timeout, **fields)[0]

    def call_with(self, method: str, metadata=None, timeout: float = 60, **fields: Any) -> tuple[Any, dict[str, str]]:
        request = getattr(inference_pb2, f"{method}Request")
        response = getattr(inference_pb2, f"{method}Response")
        stub = self.channel.unary_unary(
            SERVICE + method, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        # It listens when all is loaded, and a test may be earlier.
        said = list((metadata or {}).items())
        answer, call = stub.with_call(request(**fields), timeout=timeout, metadata=said, wait_for_ready=True)
        return answer, dict(call.trailing_metadata())

    def refusal(self, method: str, metadata: dict[str, str] | None = None, **fields: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(method, metadata, **fields)
        return caught.value.code().name, caught.value.details()


@pytest.fixture(scope="module")
def client(served: tuple[World, Endpoint, str]) -> Iterator[Client]:
    with grpc.insecure_channel(f"127.0.0.1:{served[1].grpc_port}") as channel:
        grpc.channel_ready_future(channel).result(60)
        yield Client(channel)


def image(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "UINT8", "shape": [1, 4, 4, 3], **changes}


def infer(**changes: Any) -> dict[str, Any]:
    return {"model_name": "toy", "inputs": [image()], "raw_input_contents": [PIXELS], **changes}


@contextmanager
def silence() -> Iterator[Iterator[bytes]]:
    """A sender that says nothing until the block is left."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(120)
        yield from ()

    try:
        yield nothing()
    finally:
        over.set()


def probabilities(answer: Any) -> np.ndarray:
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)


def test_an_answer_is_that_of_rest_and_names_its_release(served, client: Client) -> None:
    _, endpoint, digest = served
    answer, trailers = client.call_with("ModelInfer", {"x-request-id": "abc-7"}, **infer(id="7"))
    assert (answer.model_name, answer.model_version, answer.id) == ("toy", digest[:12], "7")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("probabilities", "FP32", [1, 3])
    rest = endpoint.infer().json()["outputs"][0]["data"]
    np.testing.assert_allclose(probabilities(answer).ravel(), rest, atol=1e-6)
    assert (trailers["nightshift-model"], trailers["nightshift-digest"]) == ("toy", digest)
    assert trailers["x-request-id"] == "abc-7"


def test_typed_contents_and_raw_ones_answer_the_same(client: Client) -> None:
    typed = client.call("ModelInfer", model_name="toy", inputs=[image(contents={"uint_contents": IMAGE["data"]})])
    assert typed.raw_output_contents == client.call("ModelInfer", **infer()).raw_output_contents


@pytest.mark.parametrize("version", ["short", "full"])
def test_a_release_answers_under_its_version_and_no_other_does(served, client: Client, version: str) -> None:
    digest = served[2]
    name = digest[:12] if version == "short" else digest
    answer, trailers = client.call_with("ModelInfer", **infer(model_version=name))
    assert (answer.model_version, trailers["nightshift-digest"]) == (digest[:12], digest)
    code, words = client.refusal("ModelInfer", **infer(model_version="1"))
    assert code == "NOT_FOUND"
    assert "'1'" in words


def test_a_named_output_and_its_best_classes(client: Client) -> None:
    classes = {"classification": inference_pb2.InferParameter(int64_param=2)}
    whole = probabilities(client.call("ModelInfer", **infer(outputs=[{"name": "probabilities"}])))
    wanted = [{"name": "probabilities", "parameters": classes}]
    answer = client.call("ModelInfer", **infer(outputs=wanted))
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [1, 2])
    best = int(whole.argmax())
    first = f"{whole[0, best]:f}:{best}:{LABELS[best]}".encode()
    assert answer.raw_output_contents[0].startswith(len(first).to_bytes(4, "little") + first)


BAD = {
    "there is no input 'picture'": {"inputs": [image(name="picture")]},
    "must be UINT8": {"inputs": [image(datatype="FP32")]},
    r"shape \[1, 4, 4\]": {"inputs": [image(shape=[1, 4, 4])]},
    r"shape \[0, 4, 4, 3\]": {"inputs": [image(shape=[0, 4, 4, 3])], "raw_input_contents": [b""]},
    r"shape \[4611686018427387904, 4, 4, 3\]": {"inputs": [image(shape=[1 << 62, 4, 4, 3])]},
    "has 47 bytes": {"raw_input_contents": [PIXELS[1:]]},
    "holds 2 tensors": {"raw_input_contents": [PIXELS, PIXELS]},
    "is given twice": {"inputs": [image(), image()], "raw_input_contents": [PIXELS, PIXELS]},
    "input 'image' is missing": {"inputs": [], "raw_input_contents": []},
    "beside raw_input_contents": {"inputs": [image(contents={"uint_contents": IMAGE["data"]})]},
    "has 3 values": {"inputs": [image(contents={"uint_contents": [1, 2, 3]})], "raw_input_contents": []},
    "needs uint_contents": {"inputs": [image(contents={"fp32_contents": [1.0] * 48})], "raw_input_contents": []},
    "out of the range": {"inputs": [image(contents={"uint_contents": [256] * 48})], "raw_input_contents": []},
    "there is no output 'logits'": {"outputs": [{"name": "logits"}]},
    "names 'probabilities' twice|names one output twice": {"outputs": [{"name": "probabilities"}] * 2},
    "classification": {
        "outputs": [
            {"name": "probabilities", "parameters": {"classification": inference_pb2.InferParameter(int64_param=0)}}
        ]
    },
}


@pytest.mark.parametrize("words", BAD)
def test_a_wrong_request_is_refused_with_what_is_wrong(client: Client, words: str) -> None:
    code, details = client.refusal("ModelInfer", **infer(**BAD[words]))
    assert code == "INVALID_ARGUMENT"
    assert re.search(words, details), details


def test_bytes_that_are_no_message_are_refused(client: Client) -> None:
    stub = client.channel.unary_unary(SERVICE + "ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        stub(b"\xff\xff\xff", timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "ModelInferRequest" in caught.value.details()


def test_metadata_config_and_readiness(served, client: Client) -> None:
    digest = served[2]
    assert client.call("ServerLive").live
    assert client.call("ServerReady").ready
    assert client.call("ModelReady", name="toy", version=digest).ready
    assert not client.call("ModelReady", name="cat").ready
    assert client.call("ServerMetadata").name == "nightshift"
    about = client.call("ModelMetadata", name="toy")
    assert (about.name, list(about.versions), about.platform) == ("toy", [digest[:12]], "onnxruntime_onnx")
    assert [(one.name, one.datatype, list(one.shape)) for one in about.inputs] == [("image", "UINT8", [-1, 4, 4, 3])]
    assert [(one.name, one.datatype, list(one.shape)) for one in about.outputs] == [("probabilities", "FP32", [-1, 3])]
    config = client.call("ModelConfig", name="toy").config
    assert config.input[0].data_type == inference_pb2.TYPE_UINT8
    assert (config.name, list(config.input[0].dims)) == ("toy", [-1, 4, 4, 3])


def test_the_repository_is_listed_and_only_the_ledger_changes_it(served, client: Client) -> None:
    (found,) = client.call("RepositoryIndex").models
    assert (found.name, found.version, found.state) == ("toy", served[2][:12], "READY")
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        code, words = client.refusal(method, model_name="toy")
        assert code == "PERMISSION_DENIED"
        assert "nightshift promote" in words


@pytest.mark.parametrize("method", ["ModelStreamInfer", "TraceSetting", "LogSettings", "CudaSharedMemoryStatus"])
def test_what_is_not_here_is_unimplemented(client: Client, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.unary_unary(SERVICE + method)(b"", timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def check(channel: grpc.Channel, service: str, key: str = "") -> int:
    stub = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    metadata = [("x-api-key", key)] if key else []
    return int(stub(health_pb2.HealthCheckRequest(service=service), timeout=60, metadata=metadata).status)


def test_grpcs_own_health_check(client: Client) -> None:
    for service in ("", "inference.GRPCInferenceService", "toy"):
        assert check(client.channel, service) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check(client.channel, "cat")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_message_above_the_limit_is_refused_by_its_length(client: Client) -> None:
    code, words = client.refusal("ModelInfer", **infer(raw_input_contents=[bytes(33 << 20)]))
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in words


def test_what_needs_no_key_may_be_small_only(client: Client) -> None:
    code, words = client.refusal("ModelMetadata", name="x" * (65 << 10))
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in words
    code, words = client.refusal("ModelMetadata", name="x" * (60 << 10))
    assert (code, len(words)) == ("NOT_FOUND", 1000), "and what it quotes is shortened"


def test_a_message_that_does_not_come_is_cut_off_and_the_others_are_answered(client: Client) -> None:
    with silence() as nothing:
        waiting = client.channel.stream_unary(SERVICE + "ModelInfer").future(nothing, timeout=120)
        assert client.call("ModelInfer", **infer()).model_name == "toy"
        with pytest.raises(grpc.RpcError) as caught:
            waiting.result(120)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive" in caught.value.details()


def test_a_compressed_message_is_understood(client: Client) -> None:
    request = inference_pb2.ModelInferRequest
    stub = client.channel.unary_unary(
        SERVICE + "ModelInfer",
        request_serializer=request.SerializeToString,
        response_deserializer=inference_pb2.ModelInferResponse.FromString,
    )
    answer = stub(request(**infer()), timeout=60, compression=grpc.Compression.Gzip)
    assert answer.raw_output_contents == client.call("ModelInfer", **infer()).raw_output_contents


def test_once_a_key_is_made_it_is_asked_for(world: World, start) -> None:
    world.order(world.publish(), "proven")
    keys = Keys(open_store(f"{world.store.url}-keys"))
    predict, _ = keys.create("predict", by="test", scopes=("predict",))
    other, _ = keys.create("other", by="test", scopes=("predict:cat",))
    endpoint = start()
    endpoint.wait_serving(world.order(world.publish(seed=1), "proven").digest)
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
        client = Client(channel)
        assert client.call("ServerLive").live
        assert client.refusal("ModelInfer", **infer())[0] == "UNAUTHENTICATED"
        assert client.refusal("ModelInfer", **infer(model_name="cat"))[0] == "UNAUTHENTICATED"
        assert client.refusal("ModelInfer", {"x-api-key": "nonsense"}, **infer())[0] == "UNAUTHENTICATED"
        assert client.refusal("ModelInfer", {"x-api-key": other}, **infer())[0] == "PERMISSION_DENIED"
        with silence() as nothing, pytest.raises(grpc.RpcError) as caught:  # not only when its message has come
            channel.stream_unary(SERVICE + "ModelInfer")(nothing, timeout=60)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert check(channel, "") == check(channel, "toy", predict) == health_pb2.HealthCheckResponse.SERVING
        for key in ("", other):
            with pytest.raises(grpc.RpcError) as caught:
                check(channel, "toy", key)
            assert caught.value.code().name == ("PERMISSION_DENIED" if key else "UNAUTHENTICATED")
        assert client.call("ModelInfer", {"x-api-key": predict}, **infer()).model_name == "toy"
        assert client.call("ModelInfer", {"authorization": f"Bearer {predict}"}, **infer()).model_name == "toy"


def test_a_key_of_one_model_learns_of_no_other(world: World, start) -> None:
    digests = {name: world.publish(model=name) for name in ("toy", "secret")}
    for name, digest in digests.items():
        world.order(digest, "proven", model=name)
    keys = Keys(open_store(f"{world.store.url}-keys"))
    one, every = (
        keys.create(f"k{n}", by="test", scopes=(scope,))[0] for n, scope in enumerate(("predict:toy", "predict"))
    )
    endpoint = start()
    for name, digest in digests.items():
        endpoint.wait_serving(digest, name)
    asked = ("GET /v1/models", "GET /openapi.json", "POST /v2/repository/index", "GET /v2/models/stats")
    asked += ("GET /v2/models/none", "GET /v2/models/secret/versions/none")
    for line in asked:
        said = {key: endpoint.client.request(*line.split(), headers={"x-api-key": key}).text for key in (one, every)}
        assert "toy" in said[one], line
        assert "secret" not in said[one].replace("no scope predict:secret", ""), line
        assert "secret" in said[every], line
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
        for key, names in ((one, {"toy"}), (every, {"toy", "secret"})):
            client = Client(channel)
            assert {found.name for found in client.call("RepositoryIndex", {"x-api-key": key}).models} == names
            assert {found.name for found in client.call("ModelStatistics", {"x-api-key": key}).model_stats} == names


ASKED = ("GET ", "GET /ready", "GET /config", "GET /stats", "GET /versions/0123456789ab", "POST /infer")


def test_a_model_that_a_key_may_not_ask_answers_as_one_that_is_not_there(world: World, start) -> None:
    for name in ("toy", "secret", "ended"):
        world.order(world.publish(model=name), "proven", model=name)
    Marks(world.store).put("ended", "retire", None, who="kim", reason="it knew too much")
    one, _ = Keys(open_store(f"{world.store.url}-keys")).create("one", by="test", scopes=("predict:toy",))
    every, _ = Keys(open_store(f"{world.store.url}-keys")).create("every", by="test")
    endpoint = start()
    for name in ("toy", "secret"):
        wait_for(lambda name=name: endpoint.of(name).get("serving"))
    wait_for(lambda: endpoint.of("ended").get("retired"))

    def rest(name: str, key: str) -> list[tuple[int, str, list[str]]]:
        lines = [line.replace(" ", f" /v2/models/{name}") for line in ASKED] + [f"POST /v1/models/{name}:predict"]
        found = [endpoint.client.request(*line.split(), headers={"x-api-key": key}) for line in lines]
        return [(answer.status_code, answer.text.replace(name, "…"), sorted(answer.headers)) for answer in found]

    def rpc(name: str, key: str) -> list[tuple[str, str, list[str]]]:
        found = []
        with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
            for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelInfer"):
                asked = infer(model_name=name) if method == "ModelInfer" else {"name": name}
                with pytest.raises(grpc.RpcError) as caught:
                    Client(channel).call(method, {"x-api-key": key}, **asked)
                trailers = sorted(trailer for trailer, _ in caught.value.trailing_metadata())
                found.append((caught.value.code().name, caught.value.details().replace(name, "…"), trailers))
        return found

    absent = rest("nothing", one), rpc("nothing", one)
    said = "the API key one has no scope predict:…, only predict:toy; ask for a key with it"
    assert {answer[:2] for answer in absent[0]} == {(403, f'{{"error":"{said}"}}')}
    assert {answer[:2] for answer in absent[1]} == {("PERMISSION_DENIED", said)}
    for name in ("secret", "ended"):
        assert (rest(name, one), rpc(name, one)) == absent, name
    assert [answer[0] for answer in rest("nothing", every)] == [404] * 7, "who may ask any is told"
    assert endpoint.client.get("/v2/models/ended", headers={"x-api-key": every}).status_code == 410
    strange = endpoint.client.get("/v2/models/%0A%C2%85" + "x" * 200, headers={"x-api-key": one})
    assert (strange.status_code, len(strange.text) < 400) == (403, True)
    wait_for(lambda: logged(endpoint, "secret"))  # what really happened, for who runs it
    assert not logged(endpoint, "nothing")


def logged(endpoint: Endpoint, model: str) -> bool:
    lines = [json.loads(line) for line in endpoint.log.read_text().splitlines()]
    return any((line.get("status"), line.get("key"), line.get("model")) == (403, "one", model) for line in lines)


def test_a_stopping_endpoint_answers_what_is_under_way(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start()
    endpoint.wait_serving(digest)
    message, may_send = inference_pb2.ModelInferRequest(**infer()).SerializeToString(), threading.Event()

    def late() -> Iterator[bytes]:
        may_send.wait(120)
        yield message

    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
        assert Client(channel).call("ModelInfer", **infer()).model_name == "toy"
        under_way = channel.stream_unary(SERVICE + "ModelInfer").future(late(), timeout=120)
        assert Client(channel).call("ServerLive").live  # so the call before it has begun there
        endpoint.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping" in endpoint.log.read_text(), 60)
        may_send.set()
        answer = inference_pb2.ModelInferResponse.FromString(under_way.result(120))
        assert answer.model_version == digest[:12]
    assert endpoint.stop() == 0


def test_two_processes_share_the_port(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start(options=["--processes", "2"])
    endpoint.wait_serving(digest)
    for _ in range(8):  # each connection is some process's
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}", options) as channel:
            assert Client(channel).call("ModelInfer", timeout=60, **infer()).model_version == digest[:12]
    assert endpoint.stop() == 0


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_log_has_one_form_whoever_speaks(world: World, start, form: str) -> None:
    world.order(world.publish(), "proven")
    endpoint = start(options=("--log", form, "--log-level", "debug"))
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
        assert Client(channel).call("ModelInfer", **infer()).model_name == "toy"
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/nobody/Knows")(b"", timeout=60)
    assert endpoint.stop() == 0
    lines = endpoint.log.read_text().splitlines()
    assert any("gRPC at 127.0.0.1" in line for line in lines)
    for line in lines:
        if form == "json":
            assert list(json.loads(line))[:3] == ["time", "level", "message"]
        else:
            assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING) ", line), line


def test_what_the_door_refuses_is_counted_once_and_said_once(world: World, start) -> None:
    """The process is held in the middle of its turns, as by a machine that does something else."""
    digest = world.publish()
    world.order(digest, "proven")
    endpoint: Endpoint = start()
    endpoint.wait_serving(digest)
    body = world.folder / "request"
    body.write_bytes(inference_pb2.ModelInferRequest(**infer()).SerializeToString())
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
        assert Client(channel).call("ServerLive").live  # it listens
    command = [sys.executable, "-m", "benchmarks.serving.grpc_load", str(endpoint.grpc_port), "300", "5", str(body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        while load.poll() is None:
            time.sleep(0.1)
            if "too much to do" not in endpoint.log.read_text():
                endpoint.process.send_signal(signal.SIGSTOP)
                time.sleep(0.15)
                endpoint.process.send_signal(signal.SIGCONT)
        found = json.loads(load.stdout.read())
    text = endpoint.client.get("/metrics", headers=ADMIN).text
    series = (
        r'nightshift_requests_total{code="(\d+)",model="(.*)",protocol="(.*)",role=".*",verb="infer",version=".*"} (.*)'
    )
    counts = {(code, model, protocol): int(float(count)) for code, model, protocol, count in re.findall(series, text)}
    at_the_door = counts["503", "", "grpc"]
    assert at_the_door > 0, "it was no overload"
    assert counts["503", "", "rest"] == 0
    answered = counts["200", "toy", "grpc"]
    refused = sum(count for (code, *_), count in counts.items() if code == "503")
    assert (answered, refused) == (found["requests"], found["failed"])
    said = r"its turn soon again; (\d+) were refused"
    wait_for(lambda: sum(map(int, re.findall(said, endpoint.log.read_text()))) == at_the_door)
    assert endpoint.stop() == 0  # so that the last lines are written
    assert endpoint.log.read_text().count('"verb":"infer"') == answered + refused - at_the_door


def test_it_listens_when_it_has_loaded_what_it_is_to_serve(world: World, start) -> None:
    """Also when that is nothing."""
    make_slow_release(world.folder / "slow", layers=1000)
    endpoint: Endpoint = start()
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
        assert not Client(channel).call("ModelReady", name="slow").ready
    assert endpoint.stop() == 0
    world.order(world.registry.publish(world.folder / "slow"), "proven", model="slow")
    endpoint.start()
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
        assert Client(channel).call("ModelReady", name="slow").ready


def test_a_call_without_a_message_is_refused(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.stream_unary(SERVICE + "ModelInfer")(iter(()), timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "without a message" in caught.value.details()


def test_a_message_that_inflates_beyond_the_limit_is_refused(client: Client) -> None:
    request = inference_pb2.ModelInferRequest(**infer(raw_input_contents=[bytes(33 << 20)]))
    stub = client.channel.unary_unary(SERVICE + "ModelInfer", request_serializer=type(request).SerializeToString)
    with pytest.raises(grpc.RpcError) as caught:
        stub(request, timeout=60, compression=grpc.Compression.Gzip)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "inflates" in caught.value.details()


def test_a_big_message_is_answered(served, client: Client) -> None:
    many = 200_000  # 9.6 MB: many times what may be sent before it is asked for
    answer = client.call(
        "ModelInfer", **infer(inputs=[image(shape=[many, 4, 4, 3])], raw_input_contents=[PIXELS * many])
    )
    assert list(answer.outputs[0].shape) == [many, 3]


def test_who_hangs_up_is_logged_as_that_and_leaves_nothing_behind(served, client: Client) -> None:
    _, endpoint, _ = served
    with silence() as nothing:
        waiting = client.channel.stream_unary(SERVICE + "ModelInfer").future(
            nothing, timeout=120, metadata=[("x-request-id", "gone-away")]
        )
        assert client.call("ServerLive").live  # so the call before it has begun there
        waiting.cancel()
        wait_for(lambda: "did not wait" in _lines(endpoint, "gone-away"), 60)
    assert client.call("ModelInfer", **infer()).model_name == "toy"


@contextmanager
def own_connection(endpoint: Endpoint) -> Iterator[grpc.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}", options) as channel:
        yield channel


def test_no_call_fails_when_a_connection_has_had_as_many_as_it_may_have(served) -> None:
    """Its client makes a new one meanwhile, and sends there what it had not sent yet."""

    def ask(many: int) -> int:
        return sum(client.call("ModelInfer", **infer()).model_name == "toy" for _ in range(many))

    with own_connection(served[1]) as channel, ThreadPoolExecutor(8) as pool:
        client = Client(channel)
        assert sum(pool.map(ask, [900] * 8)) == 7200 > 2 * http2._CALLS


def test_calls_that_are_given_up_break_off_no_other(served) -> None:
    may_send = threading.Event()

    def late() -> Iterator[bytes]:
        may_send.wait(60)
        yield inference_pb2.ModelInferRequest(**infer()).SerializeToString()

    with own_connection(served[1]) as channel, silence() as nothing:
        stub = channel.stream_unary(SERVICE + "ModelInfer")
        under_way = stub.future(late(), timeout=60)
        for _ in range(15):
            begun = [stub.future(nothing, timeout=60) for _ in range(20)]
            assert Client(channel).call("ServerLive").live  # so those before it have begun there
            for call in begun:
                call.cancel()
        may_send.set()
        assert inference_pb2.ModelInferResponse.FromString(under_way.result(60)).model_name == "toy"


@pytest.mark.long
@pytest.mark.parametrize("layers", [30, 200])  # about a millisecond, in the event loop, and five, in threads
def test_too_many_at_once_are_answered_or_refused_and_who_is_answered_waits_not_long(
    world: World, start, layers: int
) -> None:
    """400 that ask again as soon as they are answered: hundreds of milliseconds of work wait at any time."""
    make_slow_release(world.folder / "slow", layers=layers)
    digest = world.registry.publish(world.folder / "slow")
    world.order(digest, "proven", model="slow")
    endpoint: Endpoint = start()
    endpoint.wait_serving(digest, "slow")
    tensor = {name: ROW[name] for name in ("name", "datatype", "shape")}
    raw = np.array(ROW["data"], np.float32).tobytes()
    request = inference_pb2.ModelInferRequest(model_name="slow", inputs=[tensor], raw_input_contents=[raw])
    body = world.folder / "request"
    body.write_bytes(request.SerializeToString())
    command = [sys.executable, "-m", "benchmarks.serving.grpc_load", str(endpoint.grpc_port), "400", "6", str(body)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(found)
    statuses = re.findall(r'"protocol":"grpc","verb":"infer".*?"status":([0-9]+)', endpoint.log.read_text())
    assert set(statuses) <= {"200", "503", "499"}, set(statuses)  # 499: those that ended with the six seconds
    assert statuses.count("499") <= 400
    assert found["failed"], "it was no overload"
    assert found["requests"] > 10
    assert found["p99"] < 20 * WAIT_S  # generous: the client has one of the two cores
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel:
        again = {"model_name": "slow", "inputs": [tensor], "raw_input_contents": [raw]}
        assert Client(channel).call("ModelInfer", **again).model_name == "slow", "and then it is as before"


def _lines(endpoint: Endpoint, request: str) -> str:
    return "".join(line for line in endpoint.log.read_text().splitlines() if request in line)
