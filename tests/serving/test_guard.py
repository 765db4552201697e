"""Keys, limits, usage, hosts and TLS at a real endpoint; its store a folder, and where it matters a real S3 server."""

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nightshift.releases.errors import ReleaseError
from nightshift.releases.promotion import promote
from nightshift.releases.store import FolderStore, open_store
from nightshift.serving import audit as audits
from nightshift.serving.keys import Keys
from nightshift.serving.usage import read, sums
from nightshift.stack.processes import Processes
from tests.conftest import make_s3
from tests.serving.world import ADMIN, IMAGE, KEY, Endpoint, World, wait_for

Start = Callable[..., Endpoint]
INFER = "/v2/models/toy/infer"
PATIENCE = 120.0


@pytest.fixture
def keys(world: World) -> Keys:
    return Keys(FolderStore(world.folder / "registry-keys"))


@pytest.fixture
def served_store(world: World) -> FolderStore:
    return FolderStore(world.folder / "registry-served")


@pytest.fixture
def digest(world: World) -> str:
    made = world.publish()
    world.order(made, "proven")
    return made


def ask(endpoint: Endpoint, key: str | None = None, **more: str) -> httpx.Response:
    headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **more}
    return endpoint.client.post(INFER, json={"inputs": [IMAGE]}, headers=headers)


def wait_status(endpoint: Endpoint, status: int, key: str | None = None) -> httpx.Response:
    """The first answer with this status; an endpoint that starts may not answer yet."""

    def answer() -> httpx.Response | None:
        try:
            found = ask(endpoint, key)
        except httpx.TransportError:
            return None
        return found if found.status_code == status else None

    found: httpx.Response = wait_for(answer, PATIENCE)
    return found


def counted(store: FolderStore, key: str) -> int:
    found = sums(read(store, date(2000, 1, 1), date(2100, 1, 1)), ["key"])
    return found[(key,)].requests if (key,) in found else 0


def test_a_key_from_its_making_to_its_end(world: World, start: Start, keys: Keys, digest: str):
    endpoint = start()
    endpoint.wait_serving(digest)
    assert ask(endpoint).status_code == 200
    for method, path in (("GET", "/status"), ("POST", "/refresh")):
        closed = endpoint.client.request(method, path)
        assert closed.status_code == 401
        assert "needs an API key" in closed.json()["error"]
        assert closed.headers["www-authenticate"].startswith("Bearer")

    alice, _ = keys.create("alice", by="me", scopes=("predict:toy",))
    bob, _ = keys.create("bob", by="me", scopes=("predict:other", "metrics"))
    refused = wait_status(endpoint, 401)
    assert "nightshift keys create" in refused.json()["error"]
    assert ask(endpoint, alice).status_code == 200
    assert endpoint.client.post(INFER, json={"inputs": [IMAGE]}, headers={"X-API-Key": alice}).status_code == 200
    assert ask(endpoint, bob).status_code == 403
    assert "predict:toy" in ask(endpoint, bob).json()["error"]
    assert ask(endpoint, "nsk_guess").status_code == 401
    assert endpoint.client.get("/v2/models/toy").status_code == 401
    assert endpoint.client.get("/v2").status_code == 401
    assert endpoint.answers("/v2/health/live")
    assert endpoint.answers("/v2/health/ready")
    assert endpoint.client.get("/status", headers={"X-API-Key": alice}).status_code == 403
    assert endpoint.of("toy")["serving"] == digest, "with the key of whoever deploys"

    keys.revoke("alice", by="me", reason="left")
    endpoint.refresh()  # at once, not at the next poll
    gone = wait_status(endpoint, 401, alice)
    assert "revoked" in gone.json()["error"]
    assert keys.read()[1]["alice"].reason == "left"


def test_while_the_keys_are_not_read_an_answer_names_no_release(world: World, start: Start, digest: str):
    (world.folder / "registry-keys").write_text("no folder")
    endpoint = start()
    wait_status(endpoint, 503)
    wait_for(lambda: endpoint.of("toy")["serving"] == digest, PATIENCE)
    refused = ask(endpoint)
    assert "keys are not read" in refused.json()["error"]
    assert not [name for name in refused.headers if name.startswith("nightshift-")]
    wait_for(lambda: "gRPC at" in endpoint.log.read_text(), PATIENCE)  # it waits for the keys, but not for ever
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ModelReady")(b"\x0a\x03toy", timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "keys are not read" in caught.value.details()
    assert not [name for name, _ in caught.value.trailing_metadata() if name.startswith("nightshift-")]


def test_a_night_still_deploys_when_keys_are_required_and_says_so_when_it_has_none(
    world: World, start: Start, keys: Keys, digest: str, monkeypatch: pytest.MonkeyPatch
):
    keys.create("alice", by="me")
    endpoint = start()
    endpoint.wait_serving(digest)
    assert ask(endpoint).status_code == 401

    def deploy(seed: int, deadline_s: float) -> object:
        made = world.publish(seed)
        return promote(
            world.registry,
            world.ledger,
            "toy",
            made,
            endpoints=[endpoint.url],
            who="me",
            what="promote",
            reason="a test",
            evidence={},
            deadline_s=deadline_s,
        )

    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", KEY)
    assert deploy(1, 60).state == "proven"  # type: ignore[attr-defined]
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", "nsk_of-somebody-else")
    with pytest.raises(ReleaseError, match="NIGHTSHIFT_ENDPOINT_KEY") as refused:
        deploy(2, 60)
    assert "nsk_" not in str(refused.value)


def test_with_keys_required_every_documented_path_but_health_asks_for_one(
    world: World, start: Start, keys: Keys, digest: str
):
    key, _ = keys.create("alice", by="me", scopes=("predict", "metrics"))
    endpoint = start()
    wait_status(endpoint, 200, key)
    document = endpoint.client.get("/openapi.json", headers={"X-API-Key": key}).json()
    asked = [(path, verb) for path, verbs in document["paths"].items() for verb in verbs]
    asked += [("/openapi.json", "get"), ("/v1/models", "get"), ("/metrics", "get"), ("/status", "get")]
    assert len(asked) > 8
    for path, verb in asked:
        known = path.replace("{model}", "toy").replace("{version}", digest[:12])
        assert "{" not in known, f"{path}: say here what stands for it"
        status = endpoint.client.request(verb, known).status_code
        assert status == (200 if known.startswith("/v2/health/") else 401), (verb, path)
    for page in ("/", "/docs", "/playground"):
        assert endpoint.client.get(page).status_code == 200


def test_a_person_predicts_with_the_key_of_the_environment(world: World, start: Start, keys: Keys, digest: str):
    key, _ = keys.create("alice", by="me")
    endpoint = start()
    wait_status(endpoint, 200, key)

    def predict(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nightshift.cli.main", "predict", "toy", "--golden", "--url", endpoint.url]
        environment = {**os.environ, "NIGHTSHIFT_REGISTRY": world.store.url, "NIGHTSHIFT_ENDPOINT_KEY": KEY, **more}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    refused = predict()
    assert refused.returncode == 1, "the key of whoever deploys goes to no address that somebody typed"
    assert "set NIGHTSHIFT_API_KEY" in refused.stderr
    assert predict(NIGHTSHIFT_API_KEY=key).returncode == 0


def test_beyond_loopback_it_starts_only_with_a_key(world: World, start: Start, keys: Keys, digest: str):
    environment = {"NIGHTSHIFT_ENDPOINT_KEY_SHA256": ""}
    refused = start(environment, options=["--host", "0.0.0.0"])
    assert refused.process
    assert refused.process.wait(PATIENCE) == 3
    assert "nightshift keys create" in refused.log.read_text()
    assert not refused.answers("/v2/health/live")

    key, _ = keys.create("alice", by="me")
    endpoint = start(environment, options=["--host", "0.0.0.0", "--allow-host", "ml.example.org"])
    wait_status(endpoint, 200, key)
    assert ask(endpoint).status_code == 401
    assert ask(endpoint, key, Host="ml.example.org:8000").status_code == 200
    assert ask(endpoint, key, Host="10.0.0.7").status_code == 200, "no name that a page could make its own"
    assert ask(endpoint, key, Host="evil.example").status_code == 421


def test_a_page_that_made_its_name_ours_gets_nothing(world: World, start: Start, digest: str):
    endpoint = start(options=["--allow-origin", "https://app.example.org"])
    endpoint.wait_serving(digest)
    strange = ask(endpoint, Host="evil.example")
    assert strange.status_code == 421
    assert "--allow-host" in strange.json()["error"]
    assert endpoint.client.get("/status", headers={**ADMIN, "Host": "evil.example"}).status_code == 421

    asked = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}
    may = endpoint.client.options(INFER, headers=asked)
    assert may.status_code == 204
    assert may.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "authorization" in may.headers["access-control-allow-headers"]
    assert may.headers["x-request-id"]
    answer = ask(endpoint, Origin="https://app.example.org")
    assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "access-control-allow-origin" not in ask(endpoint, Origin="https://evil.example").headers
    forged = endpoint.client.post("/refresh", headers={**ADMIN, "Origin": "https://evil.example"})
    assert forged.status_code == 403


def test_a_rate_and_a_quota_are_kept_and_survive_a_kill(
    world: World, start: Start, keys: Keys, served_store: FolderStore, digest: str
):
    slow, _ = keys.create("slow", by="me", rate="1/m")
    few, _ = keys.create("few", by="me", quota="5/month")
    endpoint = start()
    endpoint.wait_serving(digest)
    wait_status(endpoint, 200, slow)
    limited = ask(endpoint, slow)
    assert limited.status_code == 429
    assert 1 <= int(limited.headers["retry-after"]) <= 60
    assert "1/m" in limited.json()["error"]

    assert [ask(endpoint, few).status_code for _ in range(3)] == [200] * 3
    bad = {"inputs": [{**IMAGE, "data": [1]}]}
    assert endpoint.client.post(INFER, json=bad, headers={"X-API-Key": few}).status_code == 400
    wait_for(lambda: counted(served_store, "few") == 3, PATIENCE)
    endpoint.stop(signal.SIGKILL)

    again = start()
    again.wait_serving(digest)
    assert [ask(again, few).status_code for _ in range(2)] == [200] * 2
    spent = ask(again, few)
    assert spent.status_code == 429
    assert "5 requests of this month" in spent.json()["error"]
    assert int(spent.headers["retry-after"]) > 0
    again.stop()
    assert counted(served_store, "few") == 5, "what ends in order loses nothing"
    row = sums(read(served_store, date(2000, 1, 1), date(2100, 1, 1)), ["key", "model", "version"])[
        ("few", "toy", digest[:12])
    ]
    assert row.items == 5
    assert 0 < row.compute_seconds < 60


def test_processes_of_one_port_share_a_keys_rate_and_know_its_end(world: World, start: Start, keys: Keys, digest: str):
    key, _ = keys.create("a", by="me", rate="7/m")
    endpoint = start(options=["--processes", "3"])
    wait_for(lambda: endpoint.answers("/v2/health/ready"), PATIENCE)

    def answers(times: int) -> list[int]:
        found = []
        for _ in range(times):  # a connection each, for the kernel to spread
            with httpx.Client(base_url=endpoint.url, timeout=10, headers={"X-API-Key": key}) as client:
                found.append(client.post(INFER, json={"inputs": [IMAGE]}).status_code)
        return found

    begun = time.monotonic()
    found = answers(40)
    refilled = (time.monotonic() - begun) * 7 / 60
    assert set(found) == {200, 429}
    assert 7 <= found.count(200) <= 8 + refilled
    keys.revoke("a", by="me", reason="left")
    endpoint.refresh()
    wait_for(lambda: set(answers(12)) == {401}, PATIENCE)


def test_no_key_is_in_any_log_answer_or_record(
    world: World, start: Start, keys: Keys, served_store: FolderStore, digest: str
):
    secrets = [keys.create(name, by="me", scopes=("predict:none",))[0] for name in ("a", "b")]
    secrets += ["nsk_guessed-by-somebody", KEY]
    endpoint = start()
    endpoint.wait_serving(digest)
    keys.revoke("b", by="me", reason="left")
    endpoint.refresh()
    wait_for(lambda: "revoked" in ask(endpoint, secrets[1]).text, PATIENCE)
    said = [ask(endpoint, secret).text for secret in secrets]
    for method, path in (("POST", "/refresh"), ("GET", "/status"), ("GET", "/v2/models/none"), ("GET", "/none")):
        for secret in secrets:
            said.append(endpoint.client.request(method, path, headers={"X-API-Key": secret}).text)
            said.append(endpoint.client.request(method, path, headers={"Authorization": f"Basic {secret}"}).text)
    endpoint.stop()
    acts = audits.read(served_store, keys.store)
    assert [act for act in acts if act["outcome"] == "refused: 401" and act["who"] == "nobody"]
    assert [act for act in acts if act["act"] == "refresh" and act["who"] == "stack" and act["outcome"] == "done"]
    files = [file for file in world.folder.rglob("*") if file.is_file()]
    assert endpoint.log in files
    for secret in secrets:
        assert not [text for text in said if secret in text]
        assert not [file for file in files if secret.encode() in file.read_bytes()]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An authority's certificate, and one that it signed for localhost with its key."""

    def make(name: str, issuer: x509.Name | None, signer: ec.EllipticCurvePrivateKey | None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        at = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - timedelta(days=1))
            .not_valid_after(at + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        )
        return made.sign(signer or key, hashes.SHA256()), key

    authority, authority_key = make("authority.example", None, None)
    leaf, leaf_key = make("localhost", authority.subject, authority_key)
    pem = serialization.Encoding.PEM
    paths = tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(authority.public_bytes(pem))
    paths[1].write_bytes(leaf.public_bytes(pem))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[2].write_bytes(leaf_key.private_bytes(pem, form, plain))
    return paths


def test_with_a_certificate_it_answers_https_only_and_a_deployment_checks_it(
    world: World, start: Start, digest: str, certificate: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
):
    authority, cert, key = certificate
    endpoint = start(options=["--tls-cert", str(cert), "--tls-key", str(key)])
    url = f"https://localhost:{endpoint.port}"
    with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=str(authority)), timeout=10) as client:

        def answers() -> bool:
            try:
                return client.post(INFER, json={"inputs": [IMAGE]}).status_code == 200
            except httpx.HTTPError:
                return False

        wait_for(answers, PATIENCE)
        trust = grpc.ssl_channel_credentials(authority.read_bytes())
        with grpc.secure_channel(f"localhost:{endpoint.grpc_port}", trust) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"", timeout=60, wait_for_ready=True) == b"\x08\x01"
        assert client.get("/status", headers=ADMIN).json()["models"]["toy"]["serving"] == digest
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/v2/health/live", timeout=10)  # an authority that nobody knows
    with pytest.raises(httpx.HTTPError):
        endpoint.client.get("/v2/health/live")

    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", KEY)
    monkeypatch.setenv("NIGHTSHIFT_CA", str(authority))
    told = {"who": "me", "what": "promote", "reason": "a test", "evidence": {}, "deadline_s": 60.0}
    result = promote(world.registry, world.ledger, "toy", world.publish(1), endpoints=[url], **told)
    assert result.state == "proven", result.reason


def test_a_certificate_that_is_none_is_refused_at_the_start(world: World, start: Start, certificate):
    authority, cert, key = certificate
    for options, said in (
        (["--tls-cert", str(cert)], "go together"),
        (["--tls-cert", str(authority), "--tls-key", str(key)], "no certificate and its key"),
        (["--tls-cert", str(cert), "--tls-key", str(key.with_name("none"))], "no certificate and its key"),
    ):
        endpoint = start(options=options)
        assert endpoint.process
        assert endpoint.process.wait(PATIENCE) in (1, 2)
        assert said in endpoint.log.read_text()


@pytest.fixture
def stop_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """A server of its own, which this process may use in all ways; gives what stops it."""
    processes, server = Processes(tmp_path), make_s3(tmp_path)
    server.start(processes)
    for name, value in server.environment("admin").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield lambda: processes.stop("s3")
    processes.stop("s3")


def test_keys_hold_while_s3_is_away_and_after_a_restart_without_it(stop_s3: Callable[[], object], tmp_path: Path):
    world = World(tmp_path, "s3://nightshift-registry")
    digest = world.publish()
    world.order(digest, "proven")
    keys = Keys(open_store("s3://nightshift-keys"))
    alice, _ = keys.create("alice", by="me")
    bob, _ = keys.create("bob", by="me")
    keys.revoke("bob", by="me", reason="left")
    endpoint = world.endpoint().start()
    try:
        endpoint.wait_serving(digest)
        wait_status(endpoint, 200, alice)
        assert ask(endpoint).status_code == 401
        stop_s3()
        wait_for(lambda: "API keys cannot be read" in endpoint.log.read_text(), PATIENCE)
        assert ask(endpoint, alice).status_code == 200
        assert ask(endpoint, bob).status_code == 401
        assert ask(endpoint).status_code == 401
        endpoint.stop(signal.SIGKILL)

        endpoint = Endpoint(world.store.url, tmp_path / "copies", {}).start()
        wait_status(endpoint, 200, alice)
        assert "revoked" in ask(endpoint, bob).text
        assert ask(endpoint).status_code == 401
    finally:
        endpoint.stop()
