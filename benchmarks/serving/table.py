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


def middle(cells: Iterable[Cell]) -> dict[tuple[str, str, int], Row]:
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


def best_peer(rows: Mapping[tuple[str, str, int], Row], way: str, concurrency: int, ours: Sequence[str]) -> str | None:
    """The peer with the most requests a second, however it must be asked for this way; None without one.

    A peer that takes no binary tensors is asked for JSON by its users, so there its JSON counts.
    """
    rates = {}
    for (asked, server, at), row in rows.items():
        if server not in ours and at == concurrency and (asked == way or (way == "binary" and asked == "json")):
            rates[server] = max(row.rate, rates.get(server, 0.0))
    return max(rates, key=lambda server: rates[server]) if rates else None


def ratio(rows: Mapping[tuple[str, str, int], Row], way: str, concurrency: int, over: str) -> float | None:
    """Our requests a second over another's, in the same way of asking (for binary: its better one)."""
    ours = rows.get((way, "nightshift", concurrency))
    others = [
        rows[key].rate
        for key in ((way, over, concurrency), ("json" if way == "binary" else way, over, concurrency))
        if key in rows
    ]
    return ours.rate / max(others) if ours and others and max(others) else None


def lines(rows: Mapping[tuple[str, str, int], Row], concurrencies: Sequence[int], ours: Sequence[str]) -> list[str]:
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
    text += ["", f"| requests a second of ours over | {' | '.join(f'c={c}' for c in concurrencies)} |"]
    text.append("|---" * (len(concurrencies) + 1) + "|")
    for way in dict.fromkeys(key[0] for key in rows):
        best = []
        for concurrency in concurrencies:
            peer = best_peer(rows, way, concurrency, ours)
            value = ratio(rows, way, concurrency, peer) if peer else None
            best.append(f"{value:.2f} ({peer})" if value else "-")
        text.append(f"| the best peer, {way} | {' | '.join(best)} |")
        bare = [ratio(rows, way, concurrency, "bare") if way != "grpc" else None for concurrency in concurrencies]
        if any(bare):
            text.append(
                f"| the bare program, {way} | {' | '.join(f'{value:.2f}' if value else '-' for value in bare)} |"
            )
    return text
