import contextlib
import json
import logging
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightshift.serving import logs
from nightshift.serving.logs import AccessLog
from nightshift.serving.model import LoadedModel
from tests.serving.calls import ended, loaded
from tests.serving.world import wait_for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded(tmp_path_factory.mktemp("logs") / "release")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def lines(pipe: tuple[int, int], *calls: Any, level: int = logging.INFO, as_json: bool = True) -> list[str]:
    log = AccessLog(level, as_json, pipe[1])
    log.start()
    for call in calls:
        log.watch(call)
    log.stop()
    os.set_blocking(pipe[0], False)
    try:
        return os.read(pipe[0], 1 << 20).decode().splitlines()
    except BlockingIOError:
        return []


def test_a_line_names_request_model_digest_role_key_status_and_time(pipe: tuple[int, int], model: LoadedModel):
    (line,) = lines(pipe, ended(model, 7, key="bench", items=3))
    said = json.loads(line)
    wanted = {"id": "request-7", "model": "toy", "digest": model.digest, "role": "champion", "key": "bench"}
    assert said.items() >= (wanted | {"status": 200, "protocol": "rest", "verb": "infer", "level": "info"}).items()
    assert said["items"] == 3
    assert 4 <= said["milliseconds"] < 60_000
    assert said["time"].endswith("Z")


def test_a_person_reads_text(pipe: tuple[int, int], model: LoadedModel):
    (line,) = lines(pipe, ended(model, 7, key="bench"), as_json=False)
    assert f"INFO rest infer toy {model.version} champion 200 " in line
    assert line.endswith("ms id=request-7 key=bench")


def test_the_level_chooses(pipe: tuple[int, int], model: LoadedModel):
    health = ended(None, verb="live", status=200)
    refused = ended(None, verb="infer", status=404, error="there is no model 'x' here")
    shed = ended(model, status=503, batch=0, error="overloaded")
    calls = (health, ended(model), refused, shed)
    told = {level: lines(pipe, *calls, level=level) for level in (logging.DEBUG, logging.INFO, logging.WARNING)}
    assert [len(said) for said in told.values()] == [4, 3, 1]
    assert json.loads(told[logging.WARNING][0])["error"] == "overloaded"


def test_what_a_client_sent_makes_no_second_line(pipe: tuple[int, int]):
    call = ended(None, verb="infer", status=404, error="no \n2026 INFO all is well \ud800" + "x" * 100_000)
    for as_json in (True, False):
        (line,) = lines(pipe, call, as_json=as_json)
        assert len(line) < 800


def test_neither_inputs_nor_outputs_are_in_a_line(pipe: tuple[int, int], model: LoadedModel):
    (line,) = lines(pipe, ended(model, 213))
    assert "213" not in line.replace("request-213", "").replace(model.digest, "").replace(json.loads(line)["time"], "")
    assert "0.25" not in line.replace(str(json.loads(line)["milliseconds"]), "")


def test_a_log_that_nobody_reads_holds_nobody_up(pipe: tuple[int, int], model: LoadedModel, monkeypatch):
    monkeypatch.setattr(logs, "_WAITING", 3000)
    log = AccessLog(logging.INFO, True, pipe[1])
    log.start()
    call = ended(model)
    for _ in range(3000):
        log.watch(call)
    wait_for(lambda: len(log._waiting) < 3000, 120)  # the thread is at it, and the pipe holds 64 KiB
    until = time.monotonic() + 120
    while log.dropped < 100 and time.monotonic() < until:
        log.watch(call)
    assert len(log._waiting) <= 3000
    assert log.dropped == 100
    seen = 0
    while seen < 3000:  # somebody reads again: what waited comes
        seen += os.read(pipe[0], 1 << 16).count(b"\n")
    log.stop()
    assert log.dropped == 100


def test_a_reader_that_is_gone_is_counted(model: LoadedModel):
    reader, writer = os.pipe()
    os.close(reader)
    log = AccessLog(logging.INFO, True, writer)
    log.start()
    log.watch(ended(model))
    log.stop()
    os.close(writer)
    assert log.dropped == 1


def test_lines_of_a_pipe_that_processes_share_are_written_whole(pipe: tuple[int, int], model: LoadedModel, monkeypatch):
    sizes = []
    write = os.write
    monkeypatch.setattr(logs.os, "write", lambda fd, data: sizes.append(len(data)) or write(fd, data))
    said = lines(pipe, *(ended(model, n, error="e" * 300, status=400) for n in range(80)))  # less than a pipe holds
    assert len(said) == 80
    assert max(sizes) <= 4096


def test_after_a_line_that_was_cut_the_next_begins_a_line(tmp_path: Path, model: LoadedModel):
    file, before = tmp_path / "log", resource.getrlimit(resource.RLIMIT_FSIZE)
    with file.open("ab") as opened:
        log = AccessLog(logging.INFO, True, opened.fileno())
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # as a disk with so much left
        try:
            for number in range(2):
                log.watch(ended(model, number))
                log._write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert log.dropped == 2
        assert file.stat().st_size == 100
        for number in (7, 8):
            log.watch(ended(model, number))
            log._write()
    cut, *whole = file.read_text().splitlines()
    assert len(cut) == 100
    assert [json.loads(line)["id"] for line in whole] == ["request-7", "request-8"]


def test_what_the_process_says_waits_for_nobody(pipe: tuple[int, int]):
    os.set_blocking(pipe[1], False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe[1], bytes(4096))
    os.set_blocking(pipe[1], True)
    with os.fdopen(pipe[1], "w", closefd=False) as stream:
        handler = logs._Handler(stream)
        done = threading.Thread(target=handler.emit, args=(logging.makeLogRecord({"msg": "stopped"}),), daemon=True)
        done.start()
        done.join(60)
        assert not done.is_alive()
        os.read(pipe[0], 1 << 20)
        handler.emit(logging.makeLogRecord({"msg": "and somebody reads"}))
    assert os.read(pipe[0], 1 << 20) == b"and somebody reads\n"


def test_what_the_process_says_is_json_too(capsys: pytest.CaptureFixture[str]):
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.set_up("info", True)
        logging.getLogger("nightshift.serving").warning("the store\nis away")
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("nightshift.serving").exception("failed")
    finally:
        root.handlers[:], root.level = before, level
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["level"] == "warning"
    assert first["message"] == "the store\nis away"
    assert "ValueError: why" in second["exception"]
