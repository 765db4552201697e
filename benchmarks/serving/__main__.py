"""Runs every server at once, asks each in turn, round by round, and prints the table.

python -m benchmarks.serving [--rounds 5] [--seconds 2] [--only nightshift,bare] [--processes 1] [--cache FOLDER]
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.measure import load as machine
from benchmarks.serving import model
from benchmarks.serving.servers import COMPARISONS, OURS, Place, Server, chosen, environment, install
from benchmarks.serving.table import Cell, lines, middle

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nightshift" / "benchmarks"
CONCURRENCIES = (1, 8, 32)
START_S = 120


@dataclass
class Running:
    server: Server
    process: psutil.Process
    port: int
    grpc_port: int
    ready: float  # seconds from its start to its first right answer
    key: str

    def headers(self, folder: Path, body: str) -> dict[str, str]:
        own = {"X-API-Key": self.key} if self.server.name == OURS else {}
        return {**json.loads((folder / f"{body}.headers").read_text()), **own}

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu(self) -> float:
        """CPU seconds of all its processes so far."""
        return sum(times.user + times.system for times in (one.cpu_times() for one in self.family()))

    def resident(self) -> tuple[float, float]:
        """Resident MB of all its processes: what is shared is counted whole in each (RSS), or divided (PSS).

        It is divided among all processes that have it, also those of a server beside it with the same libraries.
        """
        found = [one.memory_full_info() for one in self.family()]
        return sum(one.rss for one in found) / 1e6, sum(one.pss for one in found) / 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    arguments.add_argument("--only", default="", help="servers, by name, separated by commas")
    arguments.add_argument("--processes", type=int, choices=(1, 2), help="only servers in so many; both if left out")
    arguments.add_argument("--cache", type=Path, default=CACHE, help="where the peers are installed, and kept")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the servers are stopped too
    try:
        wanted = chosen(given.only, given.processes)
    except ValueError as error:
        arguments.error(str(error))
    pythons = {}
    for server in wanted:
        python = install(server, given.cache)
        if isinstance(python, str):
            print(f"{server.label} is left out, it cannot be installed here: {python}")
        else:
            pythons[server.label] = python
    with tempfile.TemporaryDirectory(prefix="nightshift-serving-") as temporary:
        folder = Path(temporary)
        model.make(folder)
        model.requests(folder)
        key = model.release(folder)
        with running([server for server in wanted if server.label in pythons], pythons, folder, key) as servers:
            for one in servers:  # unmeasured: caches, allocators and batch sizes warm
                for way in one.server.ways:
                    measure(one, way, 8, 1.0, folder)
            cells = []
            for number in range(given.rounds):
                print(f"round {number + 1} of {given.rounds}: {machine()}", file=sys.stderr)
                for way in ("json", "binary", "grpc"):
                    for concurrency in CONCURRENCIES:
                        cells += [
                            measure(one, way, concurrency, given.seconds, folder)
                            for one in servers
                            if way in one.server.ways
                        ]
            print(f"{machine()}; {given.rounds} rounds of {given.seconds:g} s, middle values")
            print("\n".join(lines(middle(cells), CONCURRENCIES, COMPARISONS)))
            print("\n| | start to first answer, s | RSS after it all, MB | PSS after it all, MB |\n|---|---|---|---|")
            for one in servers:
                rss, pss = one.resident()
                print(f"| {one.server.label} | {one.ready:.2f} | {rss:.0f} | {pss:.0f} |")


@contextmanager
def running(wanted: list[Server], pythons: dict[str, Path], folder: Path, key: str) -> Iterator[list[Running]]:
    """Every server that answers, started one after the other; one that does not is named and left out."""
    started: list[subprocess.Popen] = []
    found = []
    try:
        for server in wanted:
            home = folder / f"{server.name}-{server.processes}"
            home.mkdir()
            at = Place(pythons[server.label], folder, home, server.processes, *free_ports(3))
            began = time.perf_counter()
            log = (home / "log").open("wb")
            process = subprocess.Popen(
                server.command(at),
                env=environment(at),
                cwd=home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            started.append(process)
            one = Running(server, psutil.Process(process.pid), at.port, at.grpc_port, 0.0, key)
            if first_answer(one, process, folder):
                one.ready = time.perf_counter() - began
                found.append(one)
                print(f"{server.label}: answers after {one.ready:.2f} s", file=sys.stderr)
            else:
                last = (home / "log").read_text(errors="replace")[-1500:]
                print(f"{server.label} is left out, it does not answer; the end of its log:\n{last}")
        yield found
    finally:
        for process in started:
            end(process, signal.SIGTERM)
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            end(process, signal.SIGKILL)


def end(process: subprocess.Popen, by: signal.Signals) -> None:
    """The signal to the process and all that it started, as far as they are there."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, by)


def first_answer(one: Running, process: subprocess.Popen, folder: Path) -> bool:
    """Asks until an answer comes that has the ten scores."""
    body = "plain" if one.server.plain else "json"
    content, headers = (folder / f"{body}.body").read_bytes(), one.headers(folder, body)
    with httpx.Client(trust_env=False, timeout=10) as client:
        until = time.monotonic() + START_S
        while time.monotonic() < until and process.poll() is None:
            try:
                answer = client.post(f"http://127.0.0.1:{one.port}{one.server.path}", content=content, headers=headers)
                if answer.status_code == 200:
                    return scores(answer.json()) == 10
                if answer.status_code == 500:
                    return False
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
    return False


def scores(answer: object) -> int:
    """How many numbers an answer holds, whatever its form."""
    if isinstance(answer, dict):
        return scores(answer["outputs"][0]["data"] if "outputs" in answer else list(answer.values()))
    return sum(map(scores, answer)) if isinstance(answer, list) else 1


def measure(one: Running, way: str, concurrency: int, seconds: float, folder: Path) -> Cell:
    """Asks one server for some seconds."""
    body = "plain" if one.server.plain else way
    headers = one.headers(folder, body)
    before = one.cpu()
    if way == "grpc":
        more = [f"{name.lower()}={value}" for name, value in headers.items()]
        what = [sys.executable, "-m", "benchmarks.serving.grpc_load", str(one.grpc_port), str(concurrency)]
        command = [*what, str(seconds), folder / "grpc.body", *more]
        environment_ = dict(os.environ)
    else:
        url = f"http://127.0.0.1:{one.port}{one.server.path}"
        much = ["-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
        command = ["wrk", *much, "-s", HERE / "load.lua", url]
        lines_ = "\n".join(f"{name}={value}" for name, value in headers.items())
        environment_ = {**os.environ, "BODY": str(folder / f"{body}.body"), "HEADERS": lines_}
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=environment_, capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Cell(
        one.server.label,
        way,
        concurrency,
        found["requests"],
        found["failed"],
        found["seconds"],
        found["p50"] or 0.0,
        found["p99"] or 0.0,
        one.cpu() - before,
    )


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


if __name__ == "__main__":
    main()
