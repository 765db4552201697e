"""Two endpoints behind the team's own load balancer; one is killed while requests come."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest

from nightshift.serving import inference_pb2
from tests.serving.slow_release import make_slow_release
from tests.serving.world import IMAGE, Endpoint, World, free_port, wait_for

RAW = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 4, 3]}
CONFIGURATION = Path(__file__).parents[2] / "ops" / "nginx" / "balancer.conf"

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed: apt install nginx-light")


def configuration(replicas: list[Endpoint], port: int, grpc_port: int, folder: Path) -> str:
    """The team's file with other addresses, and without the names of containers.

    Debian's nginx is older than the one that it is written for: it knows no ``resolve``, and ``http2`` as a word of
    ``listen`` only.
    """
    text = CONFIGURATION.read_text()
    for number, replica in enumerate(replicas, start=1):
        text = text.replace(f"server endpoint-{number}:8000 resolve", f"server 127.0.0.1:{replica.port}")
        text = text.replace(f"server endpoint-{number}:8001 resolve", f"server 127.0.0.1:{replica.grpc_port}")
    text = re.sub(r"  resolver [^\n]*\n", "", text)
    text = text.replace("listen 8001;\n    http2 on;", f"listen 127.0.0.1:{grpc_port} http2;")
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{port};").replace("/tmp/", f"{folder}/")
    return text if os.getuid() else "user root;\n" + text  # else it is nobody, to whom the test's folder is closed


class Balanced(NamedTuple):
    replicas: list[Endpoint]
    url: str
    grpc_address: str


@pytest.fixture
def balanced(world: World, tmp_path: Path) -> Iterator[Balanced]:
    digest = world.publish()
    world.order(digest, "proven")
    replicas = [world.endpoint(copies=f"copies-{number}").start() for number in (1, 2)]
    port, grpc_port, folder = free_port(), free_port(), tmp_path / "nginx"
    folder.mkdir()
    (folder / "nginx.conf").write_text(configuration(replicas, port, grpc_port, folder))
    nginx = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-g", "daemon off;"])
    try:
        for replica in replicas:
            wait_for(lambda replica=replica: ready(replica.url))
            with grpc.insecure_channel(f"127.0.0.1:{replica.grpc_port}") as channel:
                grpc.channel_ready_future(channel).result(60)
        wait_for(lambda: ready(f"http://127.0.0.1:{port}"))
        yield Balanced(replicas, f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}")
    finally:
        nginx.terminate()
        nginx.wait(30)
        for replica in replicas:
            replica.stop(9)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/models/toy/ready", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


class Asking:
    """Clients that ask one request after the other. ``faults`` are the failed ones with the time of each."""

    def __init__(self) -> None:
        self.answered = 0
        self.faults: list[tuple[float, str]] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    @contextmanager
    def by(self, ask: Callable[[], str], clients: int = 4) -> "Iterator[Asking]":
        """``ask`` gives "200", or what went wrong."""

        def work() -> None:
            while not self._over.is_set():
                if (said := ask()) == "200":
                    self.answered += 1
                else:
                    self.faults.append((time.monotonic(), said))

        self._threads = [threading.Thread(target=work) for _ in range(clients)]
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(60)


def end_one_under(asking: Asking, balanced: Balanced, by: signal.Signals) -> float:
    """When that was."""
    wait_for(lambda: asking.answered > 100)
    gone, stays = balanced.replicas
    assert gone.process
    assert stays.process
    ended = time.monotonic()
    gone.process.send_signal(by)
    before = asking.answered
    wait_for(lambda: asking.answered > before + 300)
    time.sleep(3)  # beyond the time after which the dead one is tried again
    assert stays.process.poll() is None
    return ended


def rest_of(client: httpx.Client) -> Callable[[], str]:
    def ask() -> str:
        try:
            return str(client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]}).status_code)
        except httpx.HTTPError as error:
            return type(error).__name__

    return ask


def grpc_of(channel: grpc.Channel) -> Callable[[], str]:
    request = inference_pb2.ModelInferRequest(model_name="toy", inputs=[RAW], raw_input_contents=[bytes(range(48))])
    infer = infer_of(channel)

    def ask() -> str:
        try:
            return "200" if infer(request, timeout=30).model_name == "toy" else "another"
        except grpc.RpcError as error:
            return str(error.code().name)

    return ask


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_replica_ends_under_load_and_no_request_fails(balanced: Balanced, by: signal.Signals) -> None:
    client = httpx.Client(base_url=balanced.url, timeout=30, trust_env=False)
    with client, Asking().by(rest_of(client)) as asking:
        end_one_under(asking, balanced, by)
    assert asking.faults == []


@pytest.mark.parametrize(
    ("by", "said"), [(signal.SIGKILL, {"UNAVAILABLE", "INTERNAL"}), (signal.SIGTERM, {"UNAVAILABLE"})]
)
def test_over_grpc_only_calls_of_that_moment_fail_and_each_says_so(
    balanced: Balanced, by: signal.Signals, said: set[str]
) -> None:
    """nginx repeats no call whose message it has begun to send; REST's requests it does. Of a replica that is told to
    stop these are calls that were sent as it closed the connection: what it had, it answers.
    """
    with grpc.insecure_channel(balanced.grpc_address) as channel, Asking().by(grpc_of(channel)) as asking:
        ended = end_one_under(asking, balanced, by)
    assert len(asking.faults) <= 4, "one for each client"
    assert {fault for _, fault in asking.faults} <= said
    assert all(at < ended + 1 for at, _ in asking.faults), "after that none is sent to who is gone"


def test_a_replica_that_comes_back_fails_no_call(world: World, balanced: Balanced) -> None:
    """It has seconds to load before what is asked for, and is asked by nginx all the while."""
    gone = balanced.replicas[0]
    with grpc.insecure_channel(balanced.grpc_address) as channel, Asking().by(grpc_of(channel)) as asking:
        ended = end_one_under(asking, balanced, signal.SIGKILL)
        make_slow_release(world.folder / "slow", layers=3000)
        world.order(world.registry.publish(world.folder / "slow"), "proven", model="slow")
        before = gone.log.read_text().count('"protocol":"grpc"')
        gone.start()
        wait_for(lambda: gone.log.read_text().count('"protocol":"grpc"') > before + 100)
    assert all(at < ended + 1 for at, _ in asking.faults), asking.faults


def infer_of(channel: grpc.Channel) -> Callable[..., Any]:
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=inference_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=inference_pb2.ModelInferResponse.FromString,
    )


def test_a_big_message_and_a_refusal_come_through(balanced: Balanced) -> None:
    """4 MB in both protocols, so that neither is sent in one piece; and gRPC's own status for what is not there."""
    items = 90_000
    data = bytes(48 * items)
    with httpx.Client(base_url=balanced.url, timeout=60, trust_env=False) as client:
        raw = {**RAW, "shape": [items, 4, 4, 3]}
        head = json.dumps({"inputs": [{**raw, "parameters": {"binary_data_size": len(data)}}]}).encode()
        length = {"Inference-Header-Content-Length": str(len(head))}
        answer = client.post("/v2/models/toy/infer", content=head + data, headers=length)
        assert (answer.status_code, answer.json()["outputs"][0]["shape"]) == (200, [items, 3])
        assert client.post("/v2/models/nobody/infer", json={"inputs": [IMAGE]}).status_code == 404
    most = [("grpc.max_receive_message_length", 32 << 20)]
    with grpc.insecure_channel(balanced.grpc_address, most) as channel:
        infer = infer_of(channel)
        request = inference_pb2.ModelInferRequest(model_name="toy", inputs=[raw], raw_input_contents=[data])
        assert list(infer(request, timeout=60).outputs[0].shape) == [items, 3]
        request.model_name = "nobody"
        with pytest.raises(grpc.RpcError) as refused:
            infer(request, timeout=60)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
