"""Rates and quotas, by a clock of the test's own; the rate over real processes that share it."""

import logging
import resource
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightshift.serving.limits import Rates, Spent, bounds


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rates(tmp_path: Path, clock: Clock) -> Rates:
    return Rates(tmp_path / "rates", clock)


def test_as_many_at_once_as_the_rate_says_then_one_at_a_time(rates: Rates, clock: Clock):
    assert [rates.take("a", 10, 10) for _ in range(10)] == [0.0] * 10
    assert rates.take("a", 10, 10) == pytest.approx(0.1)
    clock.at += 0.1
    assert rates.take("a", 10, 10) == 0
    assert rates.take("a", 10, 10) == pytest.approx(0.1)
    clock.at += 3600
    assert [rates.take("a", 10, 10) for _ in range(10)] == [0.0] * 10, "an idle hour saves up no more than the burst"
    assert rates.take("a", 10, 10) > 0


def test_a_refused_request_costs_nothing_and_keys_do_not_share(rates: Rates, clock: Clock):
    assert rates.take("a", 1, 1) == 0
    for _ in range(100):
        assert rates.take("a", 1, 1) == pytest.approx(1)
    assert rates.take("b", 1, 1) == 0
    clock.at += 1
    assert rates.take("a", 1, 1) == 0


def test_a_restart_forgets_nothing_and_a_rebooted_machine_starts_anew(tmp_path: Path, clock: Clock):
    for _ in range(2):
        assert Rates(tmp_path / "rates", clock).take("a", 0.5, 2) == 0
    assert Rates(tmp_path / "rates", clock).take("a", 0.5, 2) == pytest.approx(2)
    clock.at = 5.0  # CLOCK_MONOTONIC counts from the start of the machine
    assert Rates(tmp_path / "rates", clock).take("a", 0.5, 2) == 0


def test_more_keys_than_places_still_have_a_rate(rates: Rates):
    for number in range(5000):
        rates.take(f"key-{number}", 1, 1)
    assert rates.take("key-4999", 1, 1) > 0


def test_processes_of_one_port_share_a_keys_rate_exactly(tmp_path: Path):
    code = """
import sys
from pathlib import Path
from nightshift.serving.limits import Rates
rates = Rates(Path(sys.argv[1]))
input()  # all begin at once
print(sum(rates.take("a", 0.001, 50_000) == 0 for _ in range(30_000)))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "rates")]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    assert sum(int(process.communicate()[0]) for process in started) == 50_000


@pytest.mark.parametrize("what", ["full", "not to be written"])
def test_without_a_place_on_disk_a_rate_is_kept_in_memory_and_that_is_said_once(tmp_path: Path, clock, caplog, what):
    (tmp_path / "file").touch()
    folder = tmp_path if what == "full" else tmp_path / "file"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if what == "full" else before[0], before[1]))
    try:
        with caplog.at_level(logging.WARNING):
            rates = Rates(folder / "rates", clock)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert rates.take("a", 1, 1) == 0
    assert rates.take("a", 1, 1) == pytest.approx(1)
    assert len(caplog.records) == 1
    assert "forgotten" in caplog.text


def test_the_file_has_its_place_on_the_disk_from_the_start(tmp_path: Path, rates: Rates):
    assert (tmp_path / "rates").stat().st_blocks * 512 >= 4096 * 16


def test_a_quota_is_spent_and_begins_anew_with_the_period():
    at = datetime(2026, 2, 28, 23, 59, 30, tzinfo=UTC)
    spent = Spent("day", at)
    spent.others = 2
    assert spent.seconds_left(3, at) == 0
    assert spent.seconds_left(3, at) == 30
    spent.give_back()
    assert spent.seconds_left(3, at) == 0
    assert spent.seconds_left(3, at + timedelta(seconds=30)) == 0
    assert (spent.own, spent.others) == (1, 0)


def test_a_clock_that_goes_back_gives_no_quota_twice_and_one_that_was_far_ahead_takes_none() -> None:
    at = datetime(2026, 3, 1, 0, 10, tzinfo=UTC)
    spent = Spent("day", at)
    assert spent.seconds_left(1, at) == 0
    assert spent.seconds_left(1, at - timedelta(hours=1)) > 0, "it was the day before again"
    assert spent.seconds_left(1, at + timedelta(days=365)) == 0
    assert spent.seconds_left(1, at + timedelta(days=365)) > 0
    assert spent.seconds_left(1, at) == 0
    assert spent.seconds_left(1, at) == 24 * 3600 - 600


def test_a_month_is_the_calendars_in_utc():
    at = datetime(2026, 12, 31, 23, 0, tzinfo=UTC).astimezone()
    assert bounds("month", at) == (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert bounds("day", at) == (datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
