"""The nightly schedule's switch, and when the next night is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from nightshift.errors import NightshiftError
from nightshift.stack.private import write_private


def switch(root: Path, on: bool) -> None:
    """Writes the file that the DAGs read, whole or not at all."""
    home = root / ".nightshift"
    home.mkdir(mode=0o700, exist_ok=True)
    write_private(home / "schedule.json", json.dumps({"on": on}))


def schedule_of(root: Path, now: datetime | None = None) -> dict[str, Any]:
    """``on``, ``cron``, ``timezone``, ``next`` (ISO, None when off) and the same in ``words``.

    Raises:
        NightshiftError: params.yaml names no valid cron line or time zone.
    """
    section = yaml.safe_load((root / "params.yaml").read_text()).get("schedule") or {}
    cron, zone = str(section.get("cron")), str(section.get("timezone"))
    file = root / ".nightshift" / "schedule.json"
    on = file.exists() and bool(json.loads(file.read_text())["on"])
    upcoming = _next(cron, zone, now) if on else None
    words = f"on: the next night is {upcoming:%Y-%m-%d %H:%M %Z}" if upcoming else "off (nightshift schedule on)"
    return {
        "on": on,
        "cron": cron,
        "timezone": zone,
        "next": upcoming.isoformat() if upcoming else None,
        "words": words,
    }


def _next(cron: str, zone: str, now: datetime | None) -> datetime:
    from croniter import croniter  # a library of Airflow's: only needed where a schedule is on

    try:
        timezone = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise NightshiftError(
            f"params.yaml: schedule.timezone {zone!r} is unknown", "name one such as Europe/Zurich"
        ) from None
    if not croniter.is_valid(cron):
        raise NightshiftError(
            f"params.yaml: schedule.cron {cron!r} is no cron line", "write five fields, such as 0 3 * * *"
        )
    found: datetime = croniter(cron, (now or datetime.now(UTC)).astimezone(timezone)).get_next(datetime)
    return found
