"""How rounds become rows, and rows the ratios that are reported."""

import pytest

from benchmarks.serving.table import Cell, Comparison, best, lines, middle, ratio

ALL = ("mlserver", "kserve", "mlserver x2", "kserve x2")
ONE = Comparison("nightshift", "the best peer in one process", ALL[:2])
TWO = Comparison("nightshift x2", "the best peer of any kind", ALL)
BARE = Comparison("nightshift", "bare", ["bare"])


def cell(server: str, way: str, requests: int, concurrency: int = 8) -> Cell:
    return Cell(server, way, concurrency, requests, 1, 2.0, 0.001, 0.004, requests * 0.0002)


ROWS = middle(
    [
        *(cell("nightshift", "json", requests) for requests in (4000, 3000, 9000)),
        cell("nightshift", "binary", 8000),
        cell("nightshift x2", "json", 6000),
        cell("nightshift x2", "grpc", 6000),
        cell("bare", "json", 5000),
        cell("mlserver", "json", 1000),
        cell("mlserver x2", "json", 700),
        cell("kserve", "json", 800),
        cell("kserve", "binary", 900),
        cell("kserve", "grpc", 3000),
        cell("kserve x2", "json", 1500),
    ]
)


def test_a_row_is_the_middle_of_its_rounds() -> None:
    row = ROWS["json", "nightshift", 8]
    assert (row.rate, row.p50, row.p99, row.failed) == (2000, 1, 4, 3)
    assert row.cpu == pytest.approx(200)


def test_the_best_is_the_fastest_of_those_named_and_for_binary_in_its_better_way() -> None:
    assert best(ROWS, "json", 8, ONE.others) == ("mlserver", 500)
    assert best(ROWS, "json", 8, TWO.others) == ("kserve x2", 750)
    assert best(ROWS, "binary", 8, ONE.others) == ("mlserver", 500)
    assert best(ROWS, "binary", 8, ["kserve"]) == ("kserve", 450)
    assert best(ROWS, "grpc", 8, ["mlserver"]) is None
    assert best(middle([cell("mlserver", "json", 0)]), "json", 8, ONE.others) is None


def test_one_process_is_compared_with_one_and_two_with_the_best_of_either() -> None:
    assert ratio(ROWS, "json", 8, ONE) == (4, "mlserver")
    assert ratio(ROWS, "json", 8, TWO) == (4, "kserve x2")
    assert ratio(ROWS, "grpc", 8, TWO) == (2, "kserve")
    assert ratio(ROWS, "json", 8, BARE) == (pytest.approx(0.8), "bare")
    assert ratio(ROWS, "binary", 8, TWO) is None


def test_the_tables_name_every_server_and_the_ratios() -> None:
    text = "\n".join(lines(ROWS, (8, 32), (ONE, TWO, BARE)))
    assert "| mlserver x2 | 350 |" in text
    assert "| nightshift over the best peer in one process, json | 4.00 (mlserver) | - |" in text
    assert "| nightshift x2 over the best peer of any kind, json | 4.00 (kserve x2) | - |" in text
    assert "| nightshift over bare, json | 0.80 (bare) | - |" in text


def test_a_comparison_without_figures_has_no_row() -> None:
    text = "\n".join(lines(middle([cell("nightshift", "json", 8), cell("bare", "json", 9)]), (8,), (ONE, TWO, BARE)))
    assert "nightshift over bare, json" in text
    assert "the best peer" not in text
