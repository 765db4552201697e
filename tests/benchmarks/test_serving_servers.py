"""Which servers a run of the benchmark takes."""

import pytest

from benchmarks.serving.servers import BARE, COMPARISONS, OURS, SERVERS, chosen


def labels(only: str, processes: int | None = None) -> list[str]:
    return [server.label for server in chosen(only, processes)]


def test_a_name_is_both_kinds_and_a_kind_only_itself() -> None:
    assert labels("nightshift,bare") == ["nightshift", "nightshift x2", "bare", "bare x2"]
    assert labels("nightshift,bare", 1) == ["nightshift", "bare"]
    assert labels("nightshift x2,bare x2") == ["nightshift x2", "bare x2"]
    assert labels("bare x2", 1) == []


def test_all_are_taken_unless_some_are_named() -> None:
    assert chosen("", None) == list(SERVERS)
    assert len(chosen("", 2)) == len(SERVERS) / 2


def test_an_unknown_name_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no server is named triton"):
        chosen("bare,triton", None)


def test_ours_in_one_process_never_stands_over_peers_in_two() -> None:
    peers = {server.label for server in SERVERS if server.name not in (OURS, BARE)}
    one, two = COMPARISONS[:2]
    assert (one.ours, two.ours) == ("nightshift", "nightshift x2")
    assert set(one.others) == {label for label in peers if not label.endswith(" x2")}
    assert set(two.others) == peers
