import json
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from nightshift.serving import metrics
from nightshift.serving.metrics import Metrics
from nightshift.serving.model import LoadedModel
from tests.serving.calls import ended, loaded


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded(tmp_path_factory.mktemp("metrics") / "release")


def values(*processes: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, _ = metrics.text([process.counts() for process in processes])
    families = plain(text.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    """The sum of the series that have these labels."""
    return sum(number for (of, has), number in found.items() if of == name and labels.items() <= set(has))


def test_what_ended_is_counted_by_model_role_version_protocol_verb_and_code(model: LoadedModel):
    counts = Metrics()
    for status in (200, 200, 503):
        counts.watch(ended(model, status=status, batch=1 if status == 200 else 0))
    counts.watch(ended(model, role="canary", protocol="grpc"))
    found = values(counts)
    name = "nightshift_requests_total"
    assert value(found, name, code="200", role="champion", version=model.version, verb="infer", protocol="rest") == 2
    assert value(found, name, code="503", model="toy") == 1
    assert value(found, name, role="canary", protocol="grpc") == 1
    assert value(found, "nightshift_request_seconds_count", role="champion") == 2  # the refused one was not answered


def test_times_and_batches_fall_into_the_buckets_that_hold_them(model: LoadedModel):
    counts = Metrics()
    for waited, batch in ((0.0005, 1), (0.0006, 8), (11.0, 1000)):
        counts.watch(ended(model, waited=waited, batch=batch, computed=0.02))
    found = values(counts)
    below = {le: value(found, "nightshift_waited_seconds_bucket", le=le) for le in ("0.0005", "0.001", "10.0", "+Inf")}
    assert below == {"0.0005": 1, "0.001": 2, "10.0": 2, "+Inf": 3}
    assert value(found, "nightshift_waited_seconds_sum") == pytest.approx(11.0011)
    assert value(found, "nightshift_batch_items_bucket", le="4.0") == 1
    assert value(found, "nightshift_batch_items_sum") == 1009
    assert value(found, "nightshift_computed_seconds_bucket", le="0.01") == 0
    assert value(found, "nightshift_computed_seconds_bucket", le="0.025") == 3
    assert value(found, "nightshift_request_seconds_sum") >= 3 * 0.004


def test_what_has_no_model_counts_under_one_label_however_it_was_called():
    counts = Metrics()
    for number in range(500):
        counts.watch(ended(None, number, verb="infer", status=404, error=f"there is no model 'm{number}' here"))
    found = values(counts)
    series = [labels for name, labels in found if name == "nightshift_requests_total"]
    assert len(series) == 1
    assert value(found, "nightshift_requests_total", model="", code="404") == 500


def test_a_year_of_versions_leaves_the_last_few(model: LoadedModel):
    counts = Metrics()
    version = model.version
    try:
        for night in range(100):
            model.version = f"{night:012d}"
            counts.watch(ended(model))
    finally:
        model.version = version
    versions = {dict(labels)["version"] for name, labels in values(counts) if name == "nightshift_requests_total"}
    assert versions == {f"{night:012d}" for night in range(92, 100)}


def test_processes_are_added_up_after_a_journey_as_json(model: LoadedModel):
    first, second = Metrics(), Metrics()
    for counts, batch in ((first, 1), (first, 1), (second, 4)):
        counts.watch(ended(model, batch=batch))
    first.facts.append(lambda: [("nightshift_order_sequence", ("toy", "champion"), 7)])
    second.facts.append(lambda: [("nightshift_order_sequence", ("toy", "champion"), 6)])
    text, _ = metrics.text([json.loads(json.dumps(counts.counts())) for counts in (first, second)])
    found = {(s.name, frozenset(s.labels.items())): s.value for f in plain(text.decode()) for s in f.samples}
    assert value(found, "nightshift_requests_total") == 3
    assert value(found, "nightshift_batch_items_sum") == 6
    assert value(found, "nightshift_batch_items_bucket", le="1.0") == 2
    assert value(found, "nightshift_processes") == 2
    assert value(found, "nightshift_order_sequence", model="toy") == 6  # the one that is behind
    assert value(found, "process_resident_memory_bytes") > 20_000_000


def test_a_process_that_takes_anothers_place_goes_on_from_what_was_told(tmp_path: Path, model: LoadedModel):
    told = tmp_path / "0.counts"
    for life in range(1, 4):
        counts = Metrics(told)
        counts.facts.append(lambda: [("nightshift_in_flight", (), 2)])
        counts.watch(ended(model, batch=4))
        found = values(counts)
        assert value(found, "nightshift_requests_total") == life
        assert value(found, "nightshift_batch_items_sum") == 4 * life
        assert value(found, "nightshift_batch_items_bucket", le="4.0") == life
        assert value(found, "nightshift_in_flight") == 2  # a gauge is of now
        assert value(found, "nightshift_processes") == 1
        counts.watch(ended(model))  # was never told: lost with the process
    assert len(metrics.read(told)["nightshift_batch_items"]) == 2
    told.write_text("{")
    assert value(values(Metrics(told)), "nightshift_requests_total") == 0


def test_prometheus_own_tools_have_nothing_to_say(model: LoadedModel):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool")
    counts = everything(model)
    text, kind = metrics.text([counts.counts()])
    assert kind.startswith("text/plain")
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_open_metrics_is_given_to_who_asks_for_it(model: LoadedModel):
    text, kind = metrics.text(
        [everything(model).counts()], "application/openmetrics-text;version=1.0.0;q=0.9,*/*;q=0.1"
    )
    assert kind.startswith("application/openmetrics-text")
    families = {family.name: family for family in open_metrics(text.decode())}
    assert set(families) == set(metrics.FAMILIES)
    assert all(family.documentation for family in families.values())


@pytest.mark.parametrize("version", ["a.b", "1.x", "1..0", "1" * 5000, "²"])
def test_who_asks_for_a_version_that_is_none_is_given_the_plain_text(model: LoadedModel, version: str):
    text, kind = metrics.text([everything(model).counts()], f"application/openmetrics-text;version={version}")
    assert kind.startswith("text/plain")
    assert b"nightshift_requests_total" in text


def everything(model: LoadedModel) -> Metrics:
    """Counts with at least one series of every family."""
    counts = Metrics()
    counts.watch(ended(model))
    has = counts.counts()
    for name, family in metrics.FAMILIES.items():
        if name not in has:
            counts.facts.append(lambda name=name, labels=family.labels: [(name, ("x",) * len(labels), 1)])
    return counts


def test_every_fact_is_of_a_family_with_its_labels(model: LoadedModel):
    for name, rows in everything(model).counts().items():
        assert all(len(labels) == len(metrics.FAMILIES[name].labels) for labels, _ in rows), name


def test_the_size_that_it_tells_is_this_process_own():
    (resident,) = (number for (name, _), number in values(Metrics()).items() if name == "process_resident_memory_bytes")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")
    assert resident == pytest.approx(int(statm.read_text().split()[1]) * 4096, rel=0.5)
