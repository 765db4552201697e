"""What was measured, as tables: rates, latencies, CPU, memory, and the ratios that count."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One server asked in one way at one concurrency, in one round. Seconds; ``cpu`` is the server's own."""

    server: str
    way: str
    concurrency: int
    requests: int
    failed: int
    seconds: float
    p50: float
    p99: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """The middle of the rounds: requests a second, latencies in ms, CPU in µs a request, failed requests in all."""

    rate: float
    p50: float
    p99: float
    cpu: float
    failed: int


Rows = Mapping[tuple[str, str, int], Row]


@dataclass(frozen=True)
class Comparison:
    """A row of the ratios: one of ours, and those over whose best it stands."""

    ours: str
    over: str  # what they are called together
    others: Sequence[str]


def middle(cells: Iterable[Cell]) -> Rows:
    """Rows by (way, server, concurrency)."""
    by: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        by.setdefault((cell.way, cell.server, cell.concurrency), []).append(cell)
    median = statistics.median
    return {
        key: Row(
            median(cell.requests / cell.seconds for cell in found),
            median(cell.p50 for cell in found) * 1e3,
            median(cell.p99 for cell in found) * 1e3,
            median(cell.cpu / max(cell.requests, 1) for cell in found) * 1e6,
            sum(cell.failed for cell in found),
        )
        for key, found in by.items()
    }


def best(rows: Rows, way: str, concurrency: int, among: Sequence[str]) -> tuple[str, float] | None:
    """Which of these answers most requests a second, and how many; None if none was asked, or none answered.

    Who takes no binary tensors is asked for JSON by its users, so there its JSON counts.
    """
    rates: dict[str, float] = {}
    for (asked, server, at), row in rows.items():
        if server in among and at == concurrency and (asked == way or (way == "binary" and asked == "json")):
            rates[server] = max(row.rate, rates.get(server, 0.0))
    server = max(rates, key=lambda name: rates[name], default=None)
    return (server, rates[server]) if server and rates[server] else None


def ratio(rows: Rows, way: str, concurrency: int, of: Comparison) -> tuple[float, str] | None:
    """Our requests a second over those of the best of the others, and its name."""
    ours = rows.get((way, of.ours, concurrency))
    found = best(rows, way, concurrency, of.others)
    return (ours.rate / found[1], found[0]) if ours and found else None


def lines(rows: Rows, concurrencies: Sequence[int], comparisons: Sequence[Comparison]) -> list[str]:
    """Markdown: a table a way, then the ratios."""
    text = []
    at = "/".join(map(str, concurrencies))
    for way in dict.fromkeys(key[0] for key in rows):
        text += [
            "",
            f"| {way} | req/s c={at} | p50 ms | p99 ms | CPU µs a request | failed |",
            "|---|---|---|---|---|---|",
        ]
        for server in dict.fromkeys(key[1] for key in rows if key[0] == way):
            found = [rows[way, server, c] for c in concurrencies if (way, server, c) in rows]
            cells = [
                "/".join(f"{row.rate:.0f}" for row in found),
                "/".join(f"{row.p50:.2f}" for row in found),
                "/".join(f"{row.p99:.1f}" for row in found),
                "/".join(f"{row.cpu:.0f}" for row in found),
                str(sum(row.failed for row in found)),
            ]
            text.append(f"| {server} | " + " | ".join(cells) + " |")
    return text + _ratios(rows, concurrencies, comparisons)


def _ratios(rows: Rows, concurrencies: Sequence[int], comparisons: Sequence[Comparison]) -> list[str]:
    """A row a way and comparison of which there are figures; nothing without any."""
    text = []
    for way in dict.fromkeys(key[0] for key in rows):
        for of in comparisons:
            ratios = [ratio(rows, way, concurrency, of) for concurrency in concurrencies]
            if any(ratios):
                cells = [f"{found[0]:.2f} ({found[1]})" if found else "-" for found in ratios]
                text.append(f"| {of.ours} over {of.over}, {way} | {' | '.join(cells)} |")
    head = f"| requests a second | {' | '.join(f'c={c}' for c in concurrencies)} |"
    return ["", head, "|---" * (len(concurrencies) + 1) + "|", *text] if text else []
