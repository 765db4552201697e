"""What computing took: counted for real, measured by the machine's meters where there are some, else estimated."""

import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from nightshift.engine import costs

COSTS = {"currency": "EUR", "per_hour": {"cpu": 36.0, "gpu": 72.0}, "watts": {"cpu": 20, "gpu": 100}}
# Half a second of a core, and 300 MB: in a child of the child, as a stage is.
WORK = "import time; held = bytearray(300_000_000)\nwhile time.process_time() < 0.5: pass"


def zone(root: Path, name: str, kind: str, count: int, limit: int = 1000_000_000) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in (("name", kind), ("energy_uj", count), ("max_energy_range_uj", limit)):
        (folder / file).write_text(f"{value}\n")


def test_the_work_of_a_grandchild_is_counted_and_its_energy_estimated(tmp_path: Path) -> None:
    meter = costs.Meter(tmp_path / "no-powercap")
    subprocess.run([sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORK!r}])"])
    used = meter.read(COSTS)
    assert used["cpu_seconds"] >= 0.5
    assert used["seconds"] >= 0.5
    assert used["peak_bytes"] >= 300_000_000
    assert used["how"].startswith("CPU estimated at 20 W")
    assert used["watt_hours"] == pytest.approx(used["cpu_seconds"] * 20 / 3600, abs=1e-3)
    assert used["price"] == pytest.approx(used["seconds"] * (72 if used["gpus"] else 36) / 3600, abs=1e-3)


def test_a_machine_without_prices_says_none_and_takes_the_usual_watts(tmp_path: Path) -> None:
    used = costs.Meter(tmp_path).read({})
    assert used["how"].startswith("CPU estimated at 10 W")
    assert "price" not in used
    assert "EUR" not in costs.said(used)


def test_the_counters_of_all_processors_are_read_and_may_begin_anew(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 7)  # a part of the first
    zone(tmp_path, "intel-rapl:2", "psys", 7)  # the whole platform, the processors once more
    meter = costs.Meter(tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 2_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 20_000_000)
    used = meter.read(COSTS)
    assert used["how"].startswith("CPU measured by RAPL, whole machine")
    assert used["watt_hours"] == pytest.approx((3 + 15) / 3600, abs=1e-4)


def test_a_counter_that_may_not_be_read_or_goes_away_is_no_meter(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    before = costs.zones(tmp_path)
    assert costs.joules(before, []) is None
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert costs.zones(tmp_path) == []
    assert costs.joules([], []) is None


def test_the_meters_of_gpus_are_read_through_nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for NVML, on a machine without a GPU: two of them, one busy and one half busy, 3.6 kJ each."""
    looks, spent = threading.Semaphore(0), iter([0, 0, 3_600_000, 3_600_000])

    def rates(device: int) -> types.SimpleNamespace:
        looks.release()
        return types.SimpleNamespace(gpu=(100, 50)[device])

    nvml = types.ModuleType("pynvml")
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetCount = lambda: 2
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlDeviceGetUtilizationRates = rates
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda device: next(spent)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(costs, "EVERY", 0.05)
    meter = costs.Meter(tmp_path)
    for _ in range(8):
        assert looks.acquire(timeout=60)
    used = meter.read(COSTS | {"watts": None})
    assert used["gpus"] == 2
    assert 0 < used["gpu_seconds"] <= 1.5 * used["seconds"] + 0.1
    assert used["watt_hours"] == pytest.approx(2 + used["cpu_seconds"] * 10 / 3600, abs=1e-3)
    assert used["how"] == "CPU estimated at 10 W; GPU measured by NVML, whole machine"
    assert used["price"] == pytest.approx(used["seconds"] * 72 / 3600, abs=2e-3)
    assert f"{used['gpu_seconds']:.1f} GPU s" in costs.said(used)


def test_stages_add_up_and_the_largest_process_is_theirs() -> None:
    one = {"seconds": 2.0, "cpu_seconds": 1.5, "peak_bytes": 5, "gpus": 0, "gpu_seconds": 0.0, "watt_hours": 0.1}
    parts = [one | {"how": "CPU estimated at 10 W"}, one | {"how": "CPU estimated at 10 W", "peak_bytes": 9, "gpus": 1,
             "price": 0.5, "currency": "EUR"}]  # fmt: skip
    found = costs.total(parts)
    assert found == one | {"seconds": 4.0, "cpu_seconds": 3.0, "watt_hours": 0.2, "peak_bytes": 9, "gpus": 1,
                           "price": 0.5, "currency": "EUR", "how": "CPU estimated at 10 W"}  # fmt: skip
    assert costs.total([]) is None
    assert "price" not in costs.total(parts[:1])


def test_this_machines_own_meters_are_read_or_named_as_absent() -> None:
    used = costs.Meter().read(COSTS)
    measured = bool(costs.zones()) and os.access(costs.POWERCAP, os.R_OK)
    assert used["how"].startswith("CPU measured by RAPL" if measured else "CPU estimated")
