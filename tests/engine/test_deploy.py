"""Deploy: what the decision says, and never on the receipt's word alone. (The endpoint's part: tests of releases.)"""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nightshift.engine.key import listing, md5
from nightshift.releases import manifest as manifests
from nightshift.releases.errors import StoreDenied
from nightshift.releases.ledger import Ledger, Outcome, now
from nightshift.releases.registry import Registry
from nightshift.releases.signing import SigningKey, Trust, sign
from nightshift.releases.store import open_store
from tests.engine.conftest import World, make
from tests.releases.make import make_release

HERE = ("--dag", "train_m", "--run", "r")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, s3: Any) -> World:
    return make(tmp_path_factory.mktemp("deploy"), s3, f"deploy-{md5(str(tmp_path_factory).encode())}")


@pytest.fixture
def world(bucket: World, request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Every test has a corner of its own, so that all may use the same run."""
    return replace(bucket, work=f"{bucket.work}/{request.node.name}", root=tmp_path / "checkout")


def finished(
    world: World,
    tmp_path: Path,
    verdict: str,
    *,
    digest: str | None = None,
    asked: bool | None = None,
    overrides: dict[str, Any] | None = None,
    **gate: str,
) -> str:
    """A run up to its record, whose release is in the remote only; returns the release's digest."""
    folder = tmp_path / "release"
    folder.mkdir()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1]}
    case = {"inputs": [{**tensor, "data": [1.0]}], "outputs": [{**tensor, "data": [1.0]}]}
    (folder / "model.onnx").write_text("a program")
    (folder / "golden.json").write_text(json.dumps({"format": 1, "tolerance": 1e-4, "cases": [case]}))
    signature = {"inputs": [tensor], "outputs": [tensor]}
    manifest = manifests.build(
        folder, model="m", task="t", signature=signature, input={"kind": "tensor"}, lineage={}, verdict=verdict
    )
    made = manifests.write(folder, manifest)
    digest = digest or made
    contents = {file.name: file.read_bytes() for file in folder.iterdir()}
    decision = json.dumps(
        {"verdict": verdict, "reasons": ["accuracy 0.5 < 0.6"], "criteria": [], "opponent": None}
    ).encode()
    receipt = json.dumps({"model": "m", "digest": digest, "model_digest": manifest.model_digest}).encode()
    with world.settings_of():
        store = world.remote()
        for content in [*contents.values(), decision, receipt]:
            name = md5(content)
            store.put(f"files/md5/{name[:2]}/{name[2:]}", content)
        package, text = listing({path: md5(content) for path, content in contents.items()})
        store.put(f"files/md5/{package[:2]}/{package[2:]}", text)
        outs = {
            "artifacts/decisions/m/decision.json": md5(decision),
            "artifacts/receipts/m.json": md5(receipt),
            "artifacts/releases/m": package,
        }
        entry = {"outs": [{"path": path, "md5": name} for path, name in outs.items()]}
        journal = world.journal(*HERE[1::2])
        deploy = {"on_not_passed": gate.pop("on_not_passed", "skip"), "timeout_seconds": 0.1}
        deploy["policy"] = gate.pop("policy", "automatic")
        deploy["signed"] = gate.pop("signed", None)
        params = {"models": {"m": {"deploy": deploy, "gate": gate}}}
        base = {"dag": "train_m", "run": "r", "commit": "c" * 40, "remote": f"{world.work}/dvc", "params": params}
        conf = {"rerun": False, "reason": None, "until": None, "deploy": asked}
        journal.put("base.json", {**base, "conf": conf, "overrides": overrides or {}})
        journal.put("stages/publish.json", {"entry": entry})
    return made


@pytest.mark.parametrize(("policy", "status"), [("skip", 0), ("fail", 1)])
def test_a_challenger_that_did_not_pass_is_not_deployed(world: World, tmp_path: Path, policy: str, status: int) -> None:
    finished(world, tmp_path, "fail", on_not_passed=policy)
    ran = world.try_engine("deploy", "m", *HERE)
    assert (ran.status, ran.outcome) == (status, "not_passed")
    assert "accuracy 0.5 < 0.6" in ran.receipt["message"]
    with world.settings_of():
        assert Registry(open_store(world.environment["NIGHTSHIFT_REGISTRY"])).list() == []
    assert world.fragment("train_m", "r", "outcome.json")["outcome"] == "not_passed"


def test_an_inconclusive_challenger_stays_out_unless_the_policy_promotes_it(world: World, tmp_path: Path) -> None:
    finished(world, tmp_path, "inconclusive", inconclusive="keep")
    assert world.engine("deploy", "m", *HERE).outcome == "not_passed"


@pytest.mark.parametrize(
    ("asked", "overrides", "words"),
    [
        (None, {"train.epochs": 3}, "train.epochs=3 was overridden, and the form does not say `deploy`"),
        (False, {}, "as the run's form says"),
        (True, {"train.epochs": 3}, ""),
    ],
)
def test_a_run_with_overrides_deploys_only_when_asked(
    world: World, tmp_path: Path, asked: bool | None, overrides: dict[str, Any], words: str
) -> None:
    finished(world, tmp_path, "pass", asked=asked, overrides=overrides)
    ran = world.try_engine("deploy", "m", *HERE, NIGHTSHIFT_ENDPOINTS="http://127.0.0.1:1")
    if not words:
        assert ran.outcome == "refused"  # nobody is there to be given it
        return
    assert (ran.status, ran.outcome, ran.receipt["order"]) == (0, "not_asked", None)
    assert words in ran.receipt["message"]


def test_a_release_that_this_registry_lacks_is_published_from_the_package(world: World, tmp_path: Path) -> None:
    digest = finished(world, tmp_path, "inconclusive", inconclusive="promote")
    ran = world.try_engine("deploy", "m", *HERE, NIGHTSHIFT_ENDPOINTS="http://127.0.0.1:1")
    with world.settings_of():
        registry = Registry(open_store(world.environment["NIGHTSHIFT_REGISTRY"]))
        assert [info.digest for info in registry.list("m")] == [digest]
    # Nobody answers at that address: nothing was ordered, and the task may be tried again.
    assert (ran.status, ran.outcome) == (1, "refused")
    assert "http://127.0.0.1:1" in ran.receipt["message"]
    again = world.try_engine("deploy", "m", *HERE, NIGHTSHIFT_ENDPOINTS="http://127.0.0.1:2")
    assert "http://127.0.0.1:2" in again.receipt["message"]


def test_a_receipt_that_names_another_release_than_the_package_fails(world: World, tmp_path: Path) -> None:
    finished(world, tmp_path, "pass", digest="f" * 64)
    ran = world.try_engine("deploy", "m", *HERE, NIGHTSHIFT_ENDPOINTS="http://127.0.0.1:1")
    assert ran.status == 1
    assert "the receipt of m names ffffffffffff" in ran.output


def test_without_endpoints_the_setting_is_named(world: World, tmp_path: Path) -> None:
    finished(world, tmp_path, "pass")
    ran = world.try_engine("deploy", "m", *HERE)
    assert ran.status == 1
    assert "NIGHTSHIFT_ENDPOINTS is not set" in ran.output


@contextlib.contextmanager
def alive() -> Iterator[str]:
    """Something that is alive and no endpoint: an order is put, and refused at its deadline."""

    class Alive(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Alive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_where_a_signature_is_required_a_worker_without_a_key_orders_nothing_and_one_with_it_signs(
    world: World, tmp_path: Path
) -> None:
    digest = finished(world, tmp_path, "pass", signed="required")
    key = SigningKey.new()
    with alive() as url:
        ran = world.try_engine("deploy", "m", *HERE, NIGHTSHIFT_ENDPOINTS=url)
        assert (ran.status, ran.outcome, ran.receipt["order"]) == (1, "refused", None)
        assert "m's releases must be signed (deploy.signed)" in ran.receipt["message"]
        ran = world.try_engine("deploy", "m", *HERE, NIGHTSHIFT_ENDPOINTS=url, NIGHTSHIFT_SIGNING_KEY=key.secret)
    assert ran.receipt["order"] == 1
    assert key.secret not in ran.output
    with world.settings_of():
        store = open_store(world.environment["NIGHTSHIFT_REGISTRY"])
        found = Registry(store).signatures("m", digest)
        manifest = Registry(store).manifest_bytes("m", digest)
        order = Ledger(store).newest("m")
    assert Trust(str(key.public)).voucher(found, "m", digest, manifest) == key.public
    assert order.evidence["signed_by"] == key.public.id


@pytest.mark.parametrize(
    ("became", "outcome"), [(Outcome(state="proven", reason="r", at=now()), "unchanged"),
                            (Outcome(state="refused", reason="r", fault="release", at=now()), "barred")]
)  # fmt: skip
def test_where_nothing_would_have_to_be_signed_nobody_misses_a_key(
    world: World, tmp_path: Path, became: Outcome, outcome: str
) -> None:
    digest = finished(world, tmp_path, "pass", signed="required")
    with world.settings_of():
        manifest = manifests.load((tmp_path / "release" / manifests.NAME).read_bytes())
        ledger = Ledger(open_store(world.environment["NIGHTSHIFT_REGISTRY"]))
        order = ledger.order("m", digest=digest, model_digest=manifest.model_digest, who="night q", what="deploy",
                             reason="r", evidence={}, deadline=timedelta(seconds=9))  # fmt: skip
        ledger.settle(order, became)
    with alive() as url:
        ran = world.try_engine("deploy", "m", *HERE, NIGHTSHIFT_ENDPOINTS=url)
    assert (ran.outcome, ran.status, ran.receipt["order"]) == (outcome, 0, None)


@pytest.mark.parametrize(("own", "outcome", "status"), [(True, "refused", 1), (False, "barred", 0)])
def test_a_second_attempt_says_what_became_of_the_runs_own_order(
    world: World, tmp_path: Path, own: bool, outcome: str, status: int
) -> None:
    """The endpoint refused the model; Airflow tries the task again, and the ledger lets no night order it again."""
    digest = finished(world, tmp_path, "pass")
    with world.settings_of():
        receipt = manifests.load((tmp_path / "release" / manifests.NAME).read_bytes())
        ledger = Ledger(open_store(world.environment["NIGHTSHIFT_REGISTRY"]))
        order = ledger.order("m", digest=digest, model_digest=receipt.model_digest, who="night r", what="deploy",
                             reason="r", evidence={}, deadline=timedelta(seconds=9))  # fmt: skip
        ledger.settle(order, Outcome(state="refused", fault="release", reason="too slow", replicas=(), at=now()))
        said = {"message": f"{digest[:12]}: too slow", "digest": digest, "order": order.sequence if own else None}
        world.journal(*HERE[1::2]).put("outcome.json", {"outcome": "refused", **said})
    with alive() as url:
        ran = world.try_engine("deploy", "m", *HERE, NIGHTSHIFT_ENDPOINTS=url)
    assert (ran.outcome, ran.status) == (outcome, status)
    assert "too slow" in ran.receipt["message"]
    assert world.fragment("train_m", "r", "outcome.json")["outcome"] == outcome
    with world.settings_of():
        assert len(ledger.history("m")) == 1


def test_a_workers_identity_cannot_put_a_signature_nor_take_one_away(world: World, s3: Any, monkeypatch) -> None:
    folder, key = world.root.parent / "toy", SigningKey.new()
    digest = make_release(folder)

    def registry(identity: str) -> Registry:
        for name, value in s3.environment(identity).items():
            monkeypatch.setenv(name, value)
        return Registry(open_store(f"s3://{s3.registry}/signed-test"))

    registry("deployer").publish(folder)
    with pytest.raises(StoreDenied):
        sign(registry("worker"), "toy", digest, key)
    assert sign(registry("deployer"), "toy", digest, key)
    worker = registry("worker")
    (name,) = (name for name in worker.store.list(f"releases/toy/{digest}/") if name.endswith(".sig"))
    with pytest.raises(StoreDenied):
        worker.store.delete(name)
    with pytest.raises(StoreDenied):
        worker.store.put(name, b"")
    assert set(worker.signatures("toy", digest)) == {key.public.id}


def test_the_deployers_identity_writes_the_registry_and_a_workers_does_not(
    world: World, tmp_path: Path, s3: Any
) -> None:
    finished(world, tmp_path, "pass")
    registry = {"NIGHTSHIFT_REGISTRY": f"s3://{s3.registry}/deploy-test", "NIGHTSHIFT_ENDPOINTS": "http://127.0.0.1:1"}
    refused = world.try_engine("deploy", "m", *HERE, **registry)
    assert refused.status == 1
    assert "AccessDenied" in refused.output
    key = s3.environment("deployer")
    deployer = {
        "NIGHTSHIFT_DEPLOYER_ACCESS_KEY_ID": key["AWS_ACCESS_KEY_ID"],
        "NIGHTSHIFT_DEPLOYER_SECRET_ACCESS_KEY": key["AWS_SECRET_ACCESS_KEY"],
    }
    ran = world.try_engine("deploy", "m", *HERE, **registry, **deployer)
    assert ran.outcome == "refused"
    keys = s3.client().list_objects_v2(Bucket=s3.registry, Prefix="deploy-test/releases/m/")["Contents"]
    assert [item["Key"] for item in keys if item["Key"].endswith("/manifest.json")]
