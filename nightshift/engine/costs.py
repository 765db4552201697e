"""What computing a stage took: time, memory, energy and its price. An event of a run, kept in its journal.

Energy is measured where the machine has meters that this process may read, RAPL for its processors (Linux; readable by
root alone unless somebody changed that) and NVML for its GPUs; they count the whole machine, whoever else used it
meanwhile. Where there is no meter it is estimated, busy seconds times the watts of params.yaml's ``costs``, and said
so.
"""

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

POWERCAP = Path("/sys/class/powercap")
WATTS = {"cpu": 10.0, "gpu": 300.0}  # of a busy core with its share of the machine, of a busy GPU
EVERY = 1.0  # seconds between two looks at how busy the GPUs are
MAXRSS = 1 if sys.platform == "darwin" else 1024  # bytes in the kernel's unit

Used = dict[str, Any]


class Zone(NamedTuple):
    """One processor's counter of energy, in microjoules; it begins anew at ``limit``."""

    name: str
    microjoules: int
    limit: int


class Meter:
    """Reads what this process and its children take from now on, and what the machine's own meters say."""

    def __init__(self, powercap: Path = POWERCAP):
        self._powercap = powercap
        self._zones = zones(powercap)
        self._gpus = Gpus()
        self._cpu = _cpu_seconds()
        self._began = time.monotonic()

    def read(self, costs: Mapping[str, Any]) -> Used:
        """What was taken so far; ``costs`` is that section of params.yaml, empty where there is none.

        Returns:
            ``seconds``, ``cpu_seconds``, ``peak_bytes`` (of the largest process), ``gpus`` of the machine and
            ``gpu_seconds`` (busy ones), ``watt_hours``, ``how`` these are known and, where there is a price,
            ``price`` and ``currency``.
        """
        seconds, cpu = time.monotonic() - self._began, _cpu_seconds() - self._cpu
        busy, gpu_joules = self._gpus.end()
        watts = {**WATTS, **(costs.get("watts") or {})}
        cpu_joules = joules(self._zones, zones(self._powercap))
        known = [
            _how("CPU", "RAPL", cpu_joules, cpu, watts["cpu"]),
            *([_how("GPU", "NVML", gpu_joules, busy, watts["gpu"])] if self._gpus.count else []),
        ]
        found = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
            "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * MAXRSS,
            "gpus": self._gpus.count,
            "gpu_seconds": round(busy, 1),
            "watt_hours": round(sum(energy for energy, _ in known) / 3600, 4),
            "how": "; ".join(how for _, how in known),
        }
        if per_hour := costs.get("per_hour"):
            price = per_hour["gpu" if self._gpus.count else "cpu"] * seconds / 3600
            found |= {"price": round(price, 6), "currency": costs["currency"]}
        return found


def _how(part: str, meter: str, measured: float | None, busy: float, watts: float) -> tuple[float, str]:
    if measured is not None:
        return measured, f"{part} measured by {meter}, whole machine"
    return busy * watts, f"{part} estimated at {watts:g} W"


def zones(powercap: Path = POWERCAP) -> list[Zone]:
    """The counters of the machine's processors; empty where there are none or this process may not read them."""
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):  # AMD's have that name too
        with contextlib.suppress(OSError, ValueError):
            name = (folder / "name").read_text().strip()
            if name.startswith("package"):  # the zones below it are parts of it
                count, limit = (int((folder / file).read_text()) for file in ("energy_uj", "max_energy_range_uj"))
                found.append(Zone(folder.name, count, limit))
    return found


def joules(before: list[Zone], after: list[Zone]) -> float | None:
    """What the processors took between two readings; None without meters. A counter may have begun anew once."""
    if not before or [zone.name for zone in before] != [zone.name for zone in after]:
        return None
    return sum((new.microjoules - old.microjoules) % new.limit for old, new in zip(before, after, strict=True)) / 1e6


class Gpus:
    """The machine's NVIDIA GPUs, from now on: ``count``, busy seconds and joules; none without NVML or a driver."""

    def __init__(self) -> None:
        self._busy, self._ended, self._devices = 0.0, threading.Event(), list[Any]()
        with contextlib.suppress(Exception):  # no library, no driver, no right: each machine fails in its own way
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        self.count = len(self._devices)
        self._began = self._millijoules()
        if self._devices:
            threading.Thread(target=self._look, daemon=True).start()

    def end(self) -> tuple[float, float | None]:
        """Busy seconds of all GPUs together, and joules; None where they do not count them."""
        self._ended.set()
        now = self._millijoules()
        return self._busy, None if now is None or self._began is None else (now - self._began) / 1000

    def _look(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(EVERY):
            now = time.monotonic()
            with contextlib.suppress(Exception):
                rates = [self._nvml.nvmlDeviceGetUtilizationRates(device).gpu for device in self._devices]
                self._busy += sum(rates) / 100 * (now - last)
            last = now

    def _millijoules(self) -> float | None:
        try:
            found = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(device) for device in self._devices]
        except Exception:  # older than Volta, or taken away meanwhile
            return None
        return float(sum(found)) if found else None


def total(used: Iterable[Used]) -> Used | None:
    """Several stages together: sums, and the largest process; None of nothing."""
    every = list(used)
    if not every:
        return None
    adds = ("seconds", "cpu_seconds", "gpu_seconds", "watt_hours", "price")
    found: Used = {name: round(sum(one.get(name, 0) for one in every), 6) for name in adds}
    if not any("price" in one for one in every):
        del found["price"]
    how = "; ".join(dict.fromkeys(part for one in every for part in one["how"].split("; ")))
    peak, gpus = (max(one[name] for one in every) for name in ("peak_bytes", "gpus"))
    currency = {name: one[name] for one in every for name in ("currency",) if name in one}
    return {**found, **currency, "peak_bytes": peak, "gpus": gpus, "how": how}


def said(used: Used) -> str:
    """In a line: ``34.2 CPU s, 0.9 GB at most, 0.09 Wh (CPU estimated at 10 W), 0.0005 EUR``."""
    parts = [f"{used['cpu_seconds']:,.1f} CPU s"]
    if used["gpus"]:
        parts.append(f"{used['gpu_seconds']:,.1f} GPU s")
    parts.append(f"{used['peak_bytes'] / 1e9:.2f} GB at most")
    parts.append(f"{used['watt_hours']:.3g} Wh ({used['how']})")
    if "price" in used:
        parts.append(f"{used['price']:.2g} {used['currency']}")
    return ", ".join(parts)


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended, with theirs."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
