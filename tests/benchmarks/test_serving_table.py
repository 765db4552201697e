"""How rounds become rows, and rows the ratios that are reported."""

import pytest

from benchmarks.serving.table import Cell, best_peer, lines, middle, ratio

OURS = ("nightshift", "bare")


def cell(server: str, way: str, requests: int, concurrency: int = 8) -> Cell:
    return Cell(server, way, concurrency, requests, 1, 2.0, 0.001, 0.004, requests * 0.0002)


ROWS = middle(
    [
        *(cell("nightshift", "json", requests) for requests in (4000, 3000, 9000)),
        cell("nightshift", "binary", 8000),
        cell("bare", "json", 5000),
        cell("mlserver", "json", 1000),
        cell("kserve", "json", 800),
        cell("kserve", "binary", 900),
    ]
)


def test_a_row_is_the_middle_of_its_rounds() -> None:
    row = ROWS["json", "nightshift", 8]
    assert (row.rate, row.p50, row.p99, row.failed) == (2000, 1, 4, 3)
    assert row.cpu == pytest.approx(200)


def test_ours_is_compared_with_the_best_peer_and_for_binary_with_its_better_way() -> None:
    assert best_peer(ROWS, "json", 8, OURS) == "mlserver"
    assert ratio(ROWS, "json", 8, "mlserver") == 4
    assert ratio(ROWS, "json", 8, "bare") == pytest.approx(0.8)
    assert best_peer(ROWS, "binary", 8, OURS) == "mlserver"
    assert ratio(ROWS, "binary", 8, "mlserver") == 8
    assert best_peer(ROWS, "grpc", 8, OURS) is None


def test_the_tables_name_every_server_and_the_ratios() -> None:
    text = "\n".join(lines(ROWS, (8,), OURS))
    assert "| mlserver | 500 |" in text
    assert "| the best peer, json | 4.00 (mlserver) |" in text
    assert "| the bare program, json | 0.80 |" in text
