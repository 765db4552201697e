"""What this endpoint counts, as Prometheus reads it.

Counting one call is two look-ups, four bisections and some additions (0.7 µs), because counts are plain numbers and
lists: the library's own histograms cost as much each. The library writes the text, when somebody asks. And plain counts
of several processes can be added: whichever is asked answers for all that share the port.

A process that died is started again and goes on from what was last told of it, so that the sum never falls: Prometheus
would take that for a new start of all, and count everything twice.

No label's value comes from a client: models and versions are those that were loaded, the others are our own words. What
has no model (health, a name that is not here) counts under an empty one.
"""

import contextlib
import json
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nightshift.releases.store import whole_file
from nightshift.serving.call import Call

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_VERSIONS = 8  # of one model that are counted apart; a newer one takes the place of the oldest


class Family(NamedTuple):
    """One metric: ``together`` says how the values of several processes become one."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    together: Callable[[Iterable[float]], float] = sum
    bounds: Sequence[float] = ()


_OF = ("model", "role")
FAMILIES: dict[str, Family] = {
    "nightshift_requests": Family(
        "counter",
        "Calls that ended, by the status of their answer (for gRPC, the HTTP status of the same fault).",
        (*_OF, "version", "protocol", "verb", "code"),
    ),
    "nightshift_request_seconds": Family(
        "histogram", "From a request's headers to its answer, of those that the model answered.", _OF, bounds=SECONDS
    ),
    "nightshift_waited_seconds": Family(
        "histogram", "How long a request that the model answered had waited for its turn.", _OF, bounds=SECONDS
    ),
    "nightshift_computed_seconds": Family(
        "histogram", "Time of a request in the model: its share of the batch that it ran in.", _OF, bounds=SECONDS
    ),
    "nightshift_batch_items": Family(
        "histogram", "Items of the batch that a request ran in, its own included.", _OF, bounds=ITEMS
    ),
    "nightshift_in_flight": Family("gauge", "Requests that were admitted and are not answered yet."),
    "nightshift_serving": Family(
        "gauge", "Processes of this endpoint in which this release answers.", (*_OF, "version", "digest")
    ),
    "nightshift_order_sequence": Family("gauge", "Number of the ledger's entry that is served.", _OF, min),
    "nightshift_swaps": Family("counter", "Releases that began to answer, the first included.", ("model",)),
    "nightshift_releases_refused": Family(
        "counter", "Releases that were ordered and refused here, by the kind of fault.", ("model", "reason")
    ),
    "nightshift_ledger_read_timestamp_seconds": Family(
        "gauge", "When the ledger was last read whole, in seconds since 1970.", together=min
    ),
    "nightshift_store_problem": Family(
        "gauge", "1 while something keeps the ledger from being followed.", together=max
    ),
    "nightshift_samples_written": Family("counter", "Sampled calls that were written."),
    "nightshift_dropped": Family(
        "counter", "What was lost because it could not be written in time: samples, lines of the log.", ("what",)
    ),
    "nightshift_disk_free_bytes": Family("gauge", "Free space where the releases' local copies are.", together=min),
    "nightshift_processes": Family("gauge", "Processes that share this endpoint's port."),
    "nightshift_build_info": Family("gauge", "The version that runs.", ("version",), max),
    "process_resident_memory_bytes": Family("gauge", "Resident memory, of all processes together."),
    "process_cpu_seconds": Family("counter", "Processor time, of all processes together."),
    "process_start_time_seconds": Family(
        "gauge", "When the newest process started, in seconds since 1970.", together=max
    ),
}

# Of one process: by family, the labels' values and the number, or a histogram's counts per bucket and its sum.
Counts = dict[str, list[tuple[Sequence[str], Any]]]
Fact = tuple[str, Sequence[str], float]


class _Histograms:
    """The four of one model and role."""

    __slots__ = ("batch", "computed", "seconds", "waited")

    def __init__(self) -> None:
        # One place more than bounds for what is above them all, and one for the sum.
        self.seconds: list[float] = [0] * (len(SECONDS) + 2)
        self.waited: list[float] = [0] * (len(SECONDS) + 2)
        self.computed: list[float] = [0] * (len(SECONDS) + 2)
        self.batch: list[float] = [0] * (len(ITEMS) + 2)


class Metrics:
    """One process's counts; at each reading ``facts`` are asked for what others know: (family, labels, value).

    ``told`` is the file that remembers what was last read here, for the process that takes this one's place.
    """

    def __init__(self, told: Path | None = None) -> None:
        self._told = told
        self._before = {name: rows for name, rows in _whole(read(told)).items() if FAMILIES[name].kind != "gauge"}
        self._started = time.time()
        self.facts: list[Callable[[], Iterable[Fact]]] = [self._process]
        self._requests: dict[tuple[str, str, str, str, str, int], int] = {}
        self._histograms: dict[tuple[str, str], _Histograms] = {}
        self._versions: dict[str, list[str]] = {}

    def watch(self, call: Call) -> None:
        """Count one call that ended; in the event loop only."""
        model = call.model
        name, version = (model.name, model.version) if model is not None else ("", "")
        key = (name, call.role, version, call.protocol, call.verb, call.status)
        try:
            self._requests[key] += 1
        except KeyError:
            self._begin(name, version)
            self._requests[key] = 1
        if not call.batch:
            return  # no model ran
        histograms = self._histograms.get((name, call.role))
        if histograms is None:
            histograms = self._histograms[name, call.role] = _Histograms()
        into = histograms.seconds
        into[bisect_left(SECONDS, call.seconds)] += 1
        into[-1] += call.seconds
        into = histograms.waited
        into[bisect_left(SECONDS, call.waited)] += 1
        into[-1] += call.waited
        into = histograms.computed
        into[bisect_left(SECONDS, call.computed)] += 1
        into[-1] += call.computed
        items = histograms.batch
        items[bisect_left(ITEMS, call.batch)] += 1
        items[-1] += call.batch

    def counts(self) -> Counts:
        """All of this process and of those whose place it took, now; can be sent as JSON."""
        found = {name: list(rows) for name, rows in self._before.items()}
        for key, number in list(self._requests.items()):
            found.setdefault("nightshift_requests", []).append(((*key[:5], str(key[5])), number))
        for labels, of in list(self._histograms.items()):
            found.setdefault("nightshift_request_seconds", []).append((labels, list(of.seconds)))
            found.setdefault("nightshift_waited_seconds", []).append((labels, list(of.waited)))
            found.setdefault("nightshift_computed_seconds", []).append((labels, list(of.computed)))
            found.setdefault("nightshift_batch_items", []).append((labels, list(of.batch)))
        for ask in self.facts:
            for family, said, value in ask():
                found.setdefault(family, []).append((tuple(said), value))
        if self._told:
            with contextlib.suppress(OSError), whole_file(self._told) as temporary:
                temporary.write_text(json.dumps(found))
        return found

    def _process(self) -> Iterable[Fact]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield "nightshift_processes", (), 1
        yield "nightshift_build_info", (package_version("nightshift-ml"),), 1
        yield "process_cpu_seconds", (), used.ru_utime + used.ru_stime
        yield "process_start_time_seconds", (), self._started
        try:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # not Linux: only the greatest size that it ever had is known
            resident = used.ru_maxrss
        yield "process_resident_memory_bytes", (), resident

    def _begin(self, name: str, version: str) -> None:
        """A year of nights is hundreds of versions; those that left long ago are forgotten."""
        known = self._versions.setdefault(name, [])
        if version in known:
            return
        known.append(version)
        if len(known) > _VERSIONS:
            oldest = known.pop(0)
            self._requests = {key: n for key, n in self._requests.items() if (key[0], key[2]) != (name, oldest)}


def read(told: Path | None) -> Counts:
    """What a process last told, from its file; nothing when there is none."""
    if told is None:
        return {}
    try:
        return dict(json.loads(told.read_text()))
    except (OSError, ValueError):
        return {}


def text(processes: Sequence[Counts], accept: str | None = None) -> tuple[bytes, str]:
    """The counts of all processes together as Prometheus reads them, and the content type that ``accept`` chose."""
    # Here, because it takes 60 ms, and an endpoint that nobody watches need not pay them.
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector, CollectorRegistry

    whole = _whole({name: [row for counts in processes for row in counts.get(name, ())] for name in FAMILIES})

    class All(Collector):
        def collect(self) -> Iterable[Any]:
            for name, of in FAMILIES.items():
                if of.kind == "histogram":
                    histogram = HistogramMetricFamily(name, of.help, labels=of.labels)
                    for labels, (*buckets, total) in whole[name]:
                        histogram.add_metric(labels, _cumulative(of.bounds, buckets), total)
                    yield histogram
                else:
                    made = CounterMetricFamily if of.kind == "counter" else GaugeMetricFamily
                    family = made(name, of.help, labels=of.labels)
                    for labels, value in whole[name]:
                        family.add_metric(labels, value)
                    yield family

    registry = CollectorRegistry()
    registry.register(All())
    try:
        encode, content_type = choose_encoder(accept or "")
    except TypeError:  # it is asked for in a version that is no number
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


def _whole(counts: Counts) -> Counts:
    """The same with one row for each series."""
    found: Counts = {}
    for name, rows in counts.items():
        of, series = FAMILIES[name], dict[tuple[str, ...], list[Any]]()
        for labels, value in rows:
            series.setdefault(tuple(labels), []).append(value)
        found[name] = [
            (labels, [sum(column) for column in zip(*values, strict=True)] if of.bounds else of.together(values))
            for labels, values in sorted(series.items())
        ]
    return found


def _cumulative(bounds: Sequence[float], buckets: Sequence[float]) -> list[tuple[str, float]]:
    found, below = [], 0.0
    for bound, number in zip([*map(str, map(float, bounds)), "+Inf"], buckets, strict=True):
        below += number
        found.append((bound, below))
    return found
