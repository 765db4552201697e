import io
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from nightshift.releases.errors import StoreDenied, StoreUnavailable
from nightshift.releases.store import FolderStore, open_store
from nightshift.serving import sample_files, samples
from nightshift.serving.model import LoadedModel
from nightshift.serving.request_ids import began, request_id
from nightshift.serving.samples import Samples, plan
from tests.serving.calls import ended, loaded
from tests.serving.world import wait_for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded(tmp_path_factory.mktemp("samples") / "release")


def written(store: Any, *calls: Any, rates: tuple[str, ...] = ("1",), leave_out: tuple[str, ...] = ()) -> Samples:
    sampler = Samples(store, "host-1", plan(rates, leave_out, 90))
    sampler.start()
    for call in calls:
        sampler.watch(call)
    sampler.stop()
    return sampler


def rows(store: Any) -> list[dict[str, Any]]:
    """All that was written, as another reader of Parquet sees it."""
    tables = [pyarrow.parquet.read_table(io.BytesIO(store.get(key))) for key in store.list("samples/")]
    return [row for table in tables for row in table.to_pylist()]


def test_what_was_asked_and_answered_comes_back_from_a_real_s3_server(s3: Any, model: LoadedModel, monkeypatch):
    for name, setting in s3.environment("endpoint").items():
        monkeypatch.setenv(name, setting)
    store = open_store(f"s3://{s3.served}/test_samples-{os.urandom(4).hex()}")
    before = datetime.now(UTC)
    sampler = written(store, *(ended(model, number, key="bench") for number in range(300)))
    (key,) = store.list("samples/")
    assert key.startswith(f"samples/date={before.date()}/") or datetime.now(UTC).date() != before.date()
    assert (sampler.written, sampler.dropped) == (300, 0)
    found = rows(store)
    assert [row["request_id"] for row in found] == [f"request-{number}" for number in range(300)]
    row = found[7]
    said = {"model": "toy", "digest": model.digest, "role": "champion", "key": "bench", "protocol": "rest"}
    assert row.items() >= (said | {"verb": "infer", "status": 200, "items": 1, "error": None}).items()
    assert before - timedelta(seconds=1) <= row["time"] <= datetime.now(UTC)
    assert row["milliseconds"] >= 4
    (image,), (probabilities,) = row["inputs"], row["outputs"]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "UINT8", [1, 4, 4, 3])
    assert image["data"] == bytes([7]) * 48
    assert np.array_equal(sample_files.array(probabilities), np.full((1, 3), 0.25, np.float32))


def test_every_datatype_comes_back_as_it_was():
    kept = [
        sample_files.Kept("floats", "FP16", (2, 1), np.array([[1.5], [-2]], np.float16)),
        sample_files.Kept("flags", "BOOL", (3,), np.array([True, False, True])),
        sample_files.Kept("big", "UINT64", (1,), np.array([2**64 - 1], np.uint64)),
        sample_files.Kept("texts", "BYTES", (2, 2), np.array([["", "ä"], [b"\xff\0", "x" * 300]], object)),
        sample_files.Kept("halves", "BF16", (2,), np.array([1.5, -(2.0**100)], np.float32)),
        sample_files.Kept("none", "FP32", (0, 4), np.empty((0, 4), np.float32)),
    ]
    row = sample_files.Row(0.0, "a", "m", "d", "champion", None, "grpc", "infer", 1, kept, [], 200, 1.0, None)
    (read,) = sample_files.read(sample_files.write([row]))
    back = [sample_files.array(tensor) for tensor in read["inputs"]]
    for tensor, array in zip(kept[:3], back[:3], strict=True):
        assert array.dtype == tensor.values.dtype
        assert np.array_equal(array, tensor.values)
    assert back[3].tolist() == [[b"", "ä".encode()], [b"\xff\0", b"x" * 300]]
    assert back[4].tolist() == [1.5, -(2.0**100)]
    assert len(read["inputs"][4]["data"]) == 4
    assert back[5].shape == (0, 4)
    assert read["outputs"] == []


@pytest.mark.parametrize("hidden", ["inputs", "input:image", "outputs", "output:probabilities", "key"])
def test_what_is_left_out_is_nowhere_in_the_file(tmp_path: Path, model: LoadedModel, hidden: str):
    store = FolderStore(tmp_path)
    written(store, ended(model, 77, key="a-persons-key"), leave_out=(hidden,))
    (row,) = rows(store)
    gone = {"inputs": "input", "outputs": "output"}.get(hidden, hidden.partition(":")[0])
    assert (row["inputs"][0]["data"] is None) == (gone == "input")
    assert (row["outputs"][0]["data"] is None) == (gone == "output")
    assert (row["key"] is None) == (gone == "key")
    assert row["inputs"][0]["shape"] == [1, 4, 4, 3]
    (key,) = store.list("samples/")
    assert (b"a-persons-key" in store.get(key)) == (gone != "key")


@pytest.mark.parametrize(
    ("slip", "gone"),
    [("input:imgae", "inputs"), ("toy=input:imgae", "inputs"), ("output:image", "outputs"), ("toy=inputs", "inputs")],
)
def test_where_a_name_fits_no_tensor_all_that_it_may_mean_is_left_out(
    tmp_path: Path, model: LoadedModel, slip: str, gone: str, caplog: pytest.LogCaptureFixture
):
    store = FolderStore(tmp_path)
    written(store, ended(model, 1), ended(model, 2), leave_out=(slip,))
    for row in rows(store):
        assert {kind: row[kind][0]["data"] is None for kind in ("inputs", "outputs")} == {
            kind: kind == gone for kind in ("inputs", "outputs")
        }
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (slip != "toy=inputs")
    assert all("toy has no" in line and repr(slip.partition(":")[2]) in line for line in said)


def test_what_is_left_out_of_another_model_is_kept_of_this_one(tmp_path: Path, model: LoadedModel):
    store = FolderStore(tmp_path)
    written(store, ended(model, 1, key="bench"), leave_out=("mood=input:text", "mood=key", "toy=output:probabilities"))
    (row,) = rows(store)
    assert row["key"] == "bench"
    assert row["inputs"][0]["data"] is not None
    assert row["outputs"][0]["data"] is None


def test_the_rate_is_kept_and_a_model_may_have_its_own(tmp_path: Path, model: LoadedModel):
    calls = [ended(model, number) for number in range(4000)]
    share = written(FolderStore(tmp_path / "a"), *calls, rates=("0.1",)).written / 4000
    assert 0.06 < share < 0.14  # more than eight standard deviations on either side
    assert written(FolderStore(tmp_path / "b"), *calls[:50], rates=("0", "toy=1")).written == 50
    assert written(FolderStore(tmp_path / "c"), *calls[:50], rates=("1", "toy=0")).written == 0
    assert written(FolderStore(tmp_path / "d"), *calls[:50], rates=()).written == 0
    assert not (tmp_path / "d").exists()


def test_what_has_no_inputs_is_no_sample(tmp_path: Path, model: LoadedModel):
    calls = (
        ended(None, status=404),
        ended(model, inputs=None, output_names=(), results=(), status=400, error="not JSON"),
    )
    assert written(FolderStore(tmp_path), *calls).written == 0
    refused = ended(model, output_names=(), results=(), status=400, error="the model cannot run on these inputs")
    written(FolderStore(tmp_path), refused)
    (row,) = rows(FolderStore(tmp_path))
    assert (row["status"], row["outputs"], row["error"]) == (400, [], "the model cannot run on these inputs")


class Away(FolderStore):
    """A store that does not answer until it is told to."""

    away = True
    tried = 0

    def put_new(self, key: str, data: bytes) -> bool:
        self.tried += 1
        if self.away:
            raise StoreUnavailable("it does not answer")
        return super().put_new(key, data)


class Protected(FolderStore):
    """Lets nobody remove a sample."""

    refused = 0

    def delete(self, key: str) -> None:
        if not key.startswith("samples/"):
            return super().delete(key)
        self.refused += 1
        raise StoreDenied("no right to remove", "ask for it")


def test_while_the_store_is_away_memory_is_bounded_and_the_oldest_go(
    tmp_path: Path, model: LoadedModel, monkeypatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(samples, "FLUSH_BYTES", 20_000)
    monkeypatch.setattr(samples, "MOST_BYTES", 60_000)
    store = Away(tmp_path)
    sampler = Samples(store, "host-1", plan(("1",), (), 90))
    sampler.start()
    for number in range(50):
        sampler.watch(ended(model, number))
    wait_for(lambda: store.tried > 0 or sampler.watch(ended(model, 50)), 60)
    for number in range(1000):
        sampler.watch(ended(model, number))
    assert sampler.dropped > 800
    assert sampler._size <= 60_000
    store.away = False
    sampler.stop()
    found = [row["request_id"] for row in rows(store)]
    assert found[-100:] == [f"request-{number}" for number in range(900, 1000)]
    assert sampler.written == len(found)
    assert "the oldest will be dropped: it does not answer" in caplog.text


def test_what_could_not_be_written_is_written_later(tmp_path: Path, model: LoadedModel):
    store = Away(tmp_path)
    sampler = Samples(store, "host-1", plan(("1",), (), 90))
    for number, store.away in ((1, True), (2, True), (3, False)):
        sampler.watch(ended(model, number))
        sampler._flush()
    assert sorted(row["request_id"] for row in rows(store)) == ["request-1", "request-2", "request-3"]
    assert (sampler.written, sampler.dropped) == (3, 0)


def test_a_sample_is_a_copy_of_what_the_request_goes_on_to_use(tmp_path: Path, model: LoadedModel):
    call = ended(model, 7)
    sampler = Samples(FolderStore(tmp_path), "host-1", plan(("1",), (), 90))
    sampler.watch(call)
    call.inputs["image"][:] = 0
    sampler._flush()
    (row,) = rows(FolderStore(tmp_path))
    assert row["inputs"][0]["data"] == bytes([7]) * 48


def test_a_call_that_is_bigger_than_a_file_is_dropped_and_counted(tmp_path: Path, model: LoadedModel, monkeypatch):
    monkeypatch.setattr(samples, "FLUSH_BYTES", 20_000)
    big = ended(model, inputs={"image": np.zeros((500, 4, 4, 3), np.uint8)})
    assert written(FolderStore(tmp_path), big).dropped == 1


def test_an_answer_that_was_lost_does_not_write_a_call_twice(tmp_path: Path, model: LoadedModel):
    class Forgetful(FolderStore):
        def put_new(self, key: str, data: bytes) -> bool:
            first = super().put_new(key, data)
            if first:
                raise StoreUnavailable("no answer")
            return first

    store = Forgetful(tmp_path)
    sampler = Samples(store, "host-1", plan(("1",), (), 90))
    sampler.watch(ended(model, 1))
    sampler._flush()
    sampler.watch(ended(model, 2))
    sampler._flush()
    sampler._flush()
    assert sorted(row["request_id"] for row in rows(store)) == ["request-1", "request-2"]


def test_a_file_holds_one_day(tmp_path: Path, model: LoadedModel, monkeypatch):
    store, sampler = FolderStore(tmp_path), Samples(FolderStore(tmp_path), "host-1", plan(("1",), (), 90))
    midnight = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
    for at in (-0.002, -0.001, 0.0, 0.001):
        monkeypatch.setattr(samples.time, "time", lambda at=at: midnight + at)
        sampler.watch(ended(model))
    sampler._flush()
    first, second = store.list("samples/")
    assert first == "samples/date=2026-11-27/235959998000-235959999000-host-1.parquet"
    assert second == "samples/date=2026-11-28/000000000000-000000001000-host-1.parquet"


def test_a_request_is_found_by_its_id_with_little_reading(tmp_path: Path, model: LoadedModel, monkeypatch):
    clock: Callable[[], float] = time.time
    start = datetime(2026, 11, 28, 3, tzinfo=UTC)
    sampler = Samples(FolderStore(tmp_path), "host-1", plan(("1",), (), 90))
    ours = ""
    for minute in range(60):
        monkeypatch.setattr(samples.time, "time", lambda m=minute: (start + timedelta(minutes=m)).timestamp())
        monkeypatch.setattr(samples.time, "time_ns", lambda m=minute: 10**9 * int(samples.time.time()))
        if minute == 40:
            ours = request_id(None)
        sampler.watch(ended(model, minute, **({"id": ours} if minute == 40 else {})))
        sampler._flush()
    monkeypatch.setattr(samples.time, "time", clock)
    store, got = FolderStore(tmp_path), list[str]()
    get = store.get
    monkeypatch.setattr(store, "get", lambda key: got.append(key) or get(key))
    around = start + timedelta(minutes=17, seconds=20)
    row = sample_files.find(store, "request-17", around)
    assert row is not None
    assert row["digest"] == model.digest
    assert sample_files.array(row["inputs"][0]).max() == 17
    assert len(got) <= 3
    got.clear()
    assert sample_files.array(sample_files.find(store, ours)["inputs"][0]).max() == 40  # its id says when
    assert len(got) <= 3
    assert sample_files.find(store, "request-3", days=["2026-11-28"])["items"] == 1
    assert sample_files.find(store, "request-59")["items"] == 1
    assert sample_files.find(store, "request-60") is None
    assert sample_files.find(store, "request-17", days=["2026-11-27"]) is None


def test_days_go_when_they_are_too_old_also_when_nothing_is_kept_any_more(s3: Any, monkeypatch):
    for name, setting in s3.environment("endpoint").items():
        monkeypatch.setenv(name, setting)
    store = open_store(f"s3://{s3.served}/test_samples-{os.urandom(4).hex()}")
    today = datetime.now(UTC).date()

    def files(*ages: int) -> set[str]:
        return {f"samples/date={today - timedelta(days=age)}/1-2-{one}.parquet" for age in ages for one in "ab"}

    others = {"samples/date=x/1", "samples/README", "usage/date=2020-01-01/1"}
    for key in others | files(0, 1, 28, 31, 400):
        store.put(key, b"")
    monkeypatch.setattr(samples, "FLUSH_S", 0.05)
    sampler = Samples(store, "host-1", plan((), (), 30))
    sampler.start()
    wait_for(lambda: set(store.list("")) == others | files(0, 1, 28))
    sampler.stop()


def test_a_store_that_removes_nothing_is_asked_again_later_and_writes_on(
    tmp_path: Path, model: LoadedModel, monkeypatch
):
    store = Protected(tmp_path)
    store.put("samples/date=2020-01-01/1-2-host-1.parquet", b"")
    monkeypatch.setattr(samples, "FLUSH_S", 0.05)
    monkeypatch.setattr(samples, "FORGET_S", 0.2)
    sampler = Samples(store, "host-1", plan(("1",), (), 90))
    sampler.start()
    wait_for(lambda: store.refused >= 2)
    sampler.watch(ended(model))
    wait_for(lambda: sampler.written == 1)
    sampler.stop()
    assert len(store.list("samples/")) == 2


def test_a_thread_is_not_waited_for_when_the_store_hangs(tmp_path: Path, model: LoadedModel, monkeypatch):
    free = threading.Event()

    class Hangs(FolderStore):
        def put_new(self, key: str, data: bytes) -> bool:
            return free.wait(120)

    monkeypatch.setattr(samples, "_PATIENCE_S", 0.2)
    written(Hangs(tmp_path), ended(model))
    assert not free.is_set()  # ``stop`` came back before
    free.set()


@pytest.mark.parametrize("rate", ["2", "-0.1", "x", "toy=", "=0.5", "toy=1.5", "nan"])
def test_a_rate_that_is_none_is_refused(rate: str):
    with pytest.raises(ValueError, match="is no rate"):
        plan((rate,), (), 90)


@pytest.mark.parametrize(
    "field", ["input", "image", "input:", "inputs:image", "=inputs", "=input:a", "toy=", "toy=image", ""]
)
def test_a_field_that_cannot_be_left_out_is_refused(field: str):
    with pytest.raises(ValueError, match="cannot be left out"):
        plan((), (field,), 90)


def test_our_ids_say_when_they_began_and_a_clients_is_kept_when_it_is_plain():
    before, ours = time.time(), request_id(None)
    assert before - 1 < began(ours) < time.time() + 1
    assert len({request_id(None) for _ in range(1000)}) == 1000
    assert request_id("order-7_a.b") == "order-7_a.b"
    assert began("order-7_a.b") is None
    for odd in ("", "a b", "a\nb", "ä", "x" * 65, "a;b"):
        assert request_id(odd) != odd
