"""A real endpoint, watched: by whoever has the key of its metrics, in its log, by a real Prometheus."""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.fs
import pyarrow.parquet
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from nightshift.serving.engine import Engine
from nightshift.serving.follow import Follower
from nightshift.serving.inference import Inference
from nightshift.serving.keys import digest
from nightshift.serving.logs import AccessLog
from nightshift.serving.metrics import Metrics
from nightshift.serving.processes import Peers
from nightshift.serving.samples import Plan
from nightshift.serving.turn import Turn
from nightshift.serving.watch import Watch
from tests.serving.calls import ended
from tests.serving.world import ADMIN, IMAGE, Endpoint, World, free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
WATCHER = "nsk_of-prometheus"
METRICS = {"Authorization": f"Bearer {WATCHER}"}
PATIENCE = 120.0
Start = Callable[..., Endpoint]


def scrape(endpoint: Endpoint) -> dict[str, float]:
    """Every series and its value."""
    answer = endpoint.client.get("/metrics", headers=METRICS)
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {
        s.name + str(sorted((k, v) for k, v in s.labels.items() if v)): s.value for f in families for s in f.samples
    }


def total(found: dict[str, float], name: str, **labels: str) -> float:
    wanted = [str(pair) for pair in labels.items()]
    return sum(value for key, value in found.items() if key.startswith(name + "[") and all(w in key for w in wanted))


def begin(world: World, start: Start, *options: str) -> tuple[Endpoint, str]:
    made = world.publish()
    world.order(made, "proven")
    endpoint = start({"NIGHTSHIFT_METRICS_KEY_SHA256": digest(WATCHER)}, options=options)
    wait_for(lambda: endpoint.answers("/v2/health/ready") and endpoint.of().get("serving") == made, PATIENCE)
    return endpoint, made


def lines(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [json.loads(line) for line in endpoint.log.read_text().splitlines() if line.startswith("{")]


def test_metrics_are_for_who_has_their_key_and_the_key_for_nothing_else(world: World, start: Start):
    endpoint, _ = begin(world, start)
    assert endpoint.client.get("/metrics").status_code == 401
    assert endpoint.client.get("/metrics", headers=ADMIN).status_code == 200
    assert endpoint.client.get("/metrics", headers=METRICS).status_code == 200
    assert endpoint.client.get("/status", headers=METRICS).status_code == 403
    asked = endpoint.client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]}, headers=METRICS)
    assert asked.status_code == 403


def test_what_was_asked_swapped_and_refused_is_counted(world: World, start: Start):
    endpoint, first = begin(world, start)
    for _ in range(5):
        assert endpoint.infer().status_code == 200
    assert endpoint.infer(inputs=[]).status_code == 400
    assert [endpoint.infer(f"model-{number}").status_code for number in range(3)] == [404] * 3
    second = world.publish(seed=1)
    world.order(second)
    endpoint.refresh()
    wait_for(lambda: endpoint.of().get("serving") == second, PATIENCE)
    wrong = world.publish(seed=2, off=0.5)
    world.order(wrong)
    endpoint.refresh()
    wait_for(lambda: (endpoint.of().get("refused") or {}).get("digest") == wrong, PATIENCE)
    found = scrape(endpoint)
    requests = "nightshift_requests_total"
    assert total(found, requests, verb="infer", code="200", model="toy", version=first[:12], protocol="rest") == 5
    assert total(found, requests, verb="infer", code="400", model="toy") == 1
    assert len([key for key in found if key.startswith(requests) and "'code', '404'" in key]) == 1
    assert total(found, requests, verb="infer", code="404") == 3
    assert total(found, "nightshift_request_seconds_count", model="toy") == 5
    assert 0 < total(found, "nightshift_computed_seconds_sum") < total(found, "nightshift_request_seconds_sum")
    assert total(found, "nightshift_serving", model="toy", role="champion", digest=second) == 1
    assert total(found, "nightshift_serving") == 1
    assert total(found, "nightshift_order_sequence", model="toy") == 2
    assert total(found, "nightshift_swaps_total", model="toy") == 2
    assert total(found, "nightshift_releases_refused_total", model="toy", reason="program") == 1
    assert total(found, "nightshift_store_problem") == 0
    assert abs(time.time() - total(found, "nightshift_ledger_read_timestamp_seconds")) < PATIENCE
    assert total(found, "nightshift_disk_free_bytes") > 0


def test_prometheus_own_tool_has_nothing_to_say(world: World, start: Start):
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool")
    endpoint, _ = begin(world, start)
    endpoint.infer()
    text = endpoint.client.get("/metrics", headers=METRICS).content
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_request_is_found_in_the_log_by_the_id_of_its_answer(world: World, start: Start):
    endpoint, made = begin(world, start, "--log", "json")
    theirs = endpoint.client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]}, headers={"X-Request-Id": "order-7"})
    ours = endpoint.client.post("/v2/models/toy/infer", json={}, headers={"X-Request-Id": "a b\tc", **ADMIN})
    assert theirs.headers["x-request-id"] == "order-7"
    identity = ours.headers["x-request-id"]
    assert re.fullmatch(r"[A-Za-z0-9._-]{8,64}", identity)
    endpoint.stop()
    said = {line["id"]: line for line in lines(endpoint) if "id" in line}
    assert (said["order-7"]["received"], said["order-7"]["sent"]) == (len(theirs.request.content), len(theirs.content))
    assert said["order-7"].items() >= {"model": "toy", "digest": made, "role": "champion", "status": 200}.items()
    assert said[identity].items() >= {"status": 400, "key": "stack", "error": ours.json()["error"]}.items()
    text = endpoint.log.read_text()
    assert ADMIN["Authorization"].split()[1] not in text
    assert "stopped" in text


def test_what_cannot_be_understood_is_counted_and_found_in_the_log(world: World, start: Start):
    endpoint, _ = begin(world, start, "--log", "json")
    long = endpoint.client.get("/" + "a" * 9000)
    with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
        client.sendall(b"\x16\x03\x01\x02 rubbish")
        answer = client.makefile("rb").read()
    assert long.status_code == 414
    assert answer.startswith(b"HTTP/1.1 400 ")
    found = scrape(endpoint)
    assert [total(found, "nightshift_requests_total", code=code, protocol="rest") for code in ("414", "400")] == [1, 1]
    endpoint.stop()
    said = {line["id"]: line for line in lines(endpoint) if "id" in line}
    assert said[long.headers["x-request-id"]].items() >= {"status": 414, "error": long.json()["error"]}.items()
    assert re.search(rb"x-request-id: (\S+)", answer)[1].decode() in said


def test_the_log_is_text_when_asked_and_holds_only_what_its_level_says(world: World, start: Start):
    endpoint, _ = begin(world, start, "--log", "text", "--log-level", "warning")
    endpoint.infer()
    endpoint.infer("unknown")
    endpoint.stop()
    lines = endpoint.log.read_text().splitlines()
    said = [line for line in lines if " 503 " not in line]  # while it starts it is not ready, and a warning says so
    assert not re.search(" rest | INFO ", "\n".join(said))


def test_processes_answer_as_one_and_no_count_falls_when_one_is_killed(world: World, start: Start):
    endpoint, made = begin(world, start, "--processes", "2")
    for _ in range(40):
        with httpx.Client(base_url=endpoint.url) as client:  # a new connection: any of the two
            assert client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]}).status_code == 200
    answered = "nightshift_request_seconds_count"
    for _ in range(6):  # of whichever is asked
        wait_for(lambda: total(scrape(endpoint), answered, model="toy") == 40, PATIENCE)
    wait_for(lambda: total(scrape(endpoint), "nightshift_processes") == 2, PATIENCE)
    assert total(scrape(endpoint), "nightshift_serving", digest=made) == 2
    endpoint.client.close()
    endpoint.client = httpx.Client(base_url=endpoint.url, timeout=10)
    pids = [process["pid"] for process in endpoint.status()["processes"]]
    time.sleep(6)  # younger ones are not started again
    assert subprocess.run(["kill", "-9", str(pids[0])], check=False).returncode == 0

    def again() -> bool:
        try:
            said = endpoint.status()["processes"]
        except httpx.HTTPError:
            return False
        return all(process and process["ready"] for process in said) and said[0]["pid"] != pids[0]

    wait_for(again, PATIENCE)
    assert total(scrape(endpoint), answered, model="toy") == 40


def test_samples_are_written_at_sigterm_and_read_by_anybody(world: World, start: Start, s3: Any):
    served = f"s3://{s3.served}/test_watch-{os.urandom(4).hex()}"
    made = world.publish()
    world.order(made, "proven")
    told = {**s3.environment("endpoint"), "NIGHTSHIFT_SERVED": served}
    endpoint = start(told, options=("--sample-rate", "1", "--sample-leave-out", "key"))
    wait_for(lambda: endpoint.answers("/v2/health/ready") and endpoint.of().get("serving") == made, PATIENCE)
    answers = [endpoint.client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]}, headers=ADMIN) for _ in range(3)]
    assert endpoint.stop() == 0
    bucket = pyarrow.fs.S3FileSystem(
        access_key=told["AWS_ACCESS_KEY_ID"],
        secret_key=told["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=s3.url.removeprefix("http://"),
        scheme="http",
    )
    rows = pyarrow.parquet.read_table(served.removeprefix("s3://") + "/samples", filesystem=bucket).to_pylist()
    assert [row["request_id"] for row in rows] == [answer.headers["x-request-id"] for answer in answers]
    assert {(row["digest"], row["key"], row["status"], str(row["date"])[:2]) for row in rows} == {
        (made, None, 200, "20")
    }
    assert rows[0]["inputs"][0]["data"] == bytes(range(48))
    said = answers[0].json()["outputs"][0]["data"]
    assert np.allclose(np.frombuffer(rows[0]["outputs"][0]["data"], np.float32), said)


def test_a_rate_without_a_place_for_samples_is_refused_at_the_start(world: World, s3: Any):
    options = ("--sample-rate", "1")
    endpoint = Endpoint(f"s3://{s3.registry}", world.folder / "copies", s3.environment("endpoint"), options)
    endpoint.environment.pop("NIGHTSHIFT_SERVED")
    assert endpoint.start().process.wait(PATIENCE) == 2
    assert "set NIGHTSHIFT_SERVED" in endpoint.log.read_text()


def test_of_a_process_that_is_silent_stands_what_it_last_told(world: World, tmp_path: Path):
    folder = tmp_path / "peers"
    folder.mkdir()
    other = Metrics(folder / "1.counts")
    other.watch(ended(None, verb="live", status=200))
    other.counts()
    follower = Follower(world.registry, world.ledger, Engine(), tmp_path, Peers(folder, 0, 2))
    inference = Inference(Turn())
    watch = Watch(follower, inference, AccessLog(logging.INFO, True, 2), None, "one", Plan())
    watch.metrics.watch(ended(None, verb="live", status=200))
    text, _ = asyncio.run(watch.text(None))
    assert b'verb="live",version=""} 2.0' in text
    assert b"nightshift_processes 2.0" in text


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], httpx.Client]]:
    """A real Prometheus with the rules of ops/prometheus, once a second."""
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus")
    folder, port = tmp_path / "prometheus", free_port()
    started: list[subprocess.Popen[bytes]] = []

    def start(target: str) -> httpx.Client:
        folder.mkdir()
        (folder / "metrics.key").write_text(WATCHER)
        for name in ("prometheus.yml", "alerts.yml"):
            shutil.copy(ROOT / "ops/prometheus" / name, folder)
        told = yaml.safe_load((folder / "prometheus.yml").read_text())
        told["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = told["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        job["authorization"]["credentials_file"] = str(folder / "metrics.key")
        (folder / "prometheus.yml").write_text(yaml.safe_dump(told))
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command.append(f"--web.listen-address=127.0.0.1:{port}")
        with (folder / "log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_every_panel_and_alert_is_answered_by_a_real_prometheus(world: World, start: Start, prometheus):
    endpoint, _ = begin(world, start, "--sample-rate", "1")
    client = prometheus(endpoint.url.removeprefix("http://"))

    def query(expression: str) -> list[Any]:
        expression = expression.replace("$__rate_interval", "30s").replace("$model", ".*")
        try:
            answer = client.get("/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            return []
        if answer.status_code == 503:  # it is not up yet
            return []
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        found: list[Any] = answer.json()["data"]["result"]
        return found

    def scraped() -> bool:
        endpoint.infer()
        endpoint.infer("unknown")
        return any(int(row["value"][1]) >= 5 for row in query("count_over_time(up[1h])"))

    wait_for(scraped, PATIENCE)
    world.order(world.publish(seed=1))
    wrong = world.publish(seed=2, off=0.5)
    world.order(wrong)
    endpoint.refresh()
    refused = 'nightshift_releases_refused_total{reason="program"}'
    wait_for(lambda: scraped() and query(f"count_over_time({refused}[1h]) > 2"), PATIENCE)

    rules = yaml.safe_load((ROOT / "ops/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    for rule in rules:
        query(rule["expr"])
    dashboard = json.loads((ROOT / "ops/grafana/dashboards/endpoint.json").read_text())
    targets = [(panel["title"], target) for panel in dashboard["panels"] for target in panel["targets"]]

    def silent() -> set[str]:
        assert scraped()
        return {title for title, target in targets if not query(target["expr"])}

    wait_for(lambda: not silent(), PATIENCE)
    for annotation in dashboard["annotations"]["list"]:
        query(annotation["expr"])
    wait_for(lambda: query('ALERTS{alertname="ReleaseRefused", alertstate="firing"}'), PATIENCE)
    firing = {row["metric"]["alertname"] for row in query('ALERTS{alertstate="firing"}')}
    assert not firing & {"EndpointDown", "NoEndpointAnswers", "ReplicasDisagree", "ModelMissing", "LedgerNotRead"}
