"""``nightshift land [DATASET]``: the next demo day, dropped into the landing zone."""

import json as json_
import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from nightshift.cli.connect import take_settings
from nightshift.errors import NightshiftError
from nightshift.releases.store import Store, open_store
from nightshift.stack import demo


def land(
    dataset: Annotated[str | None, typer.Argument(help="One of the demo data sets. Default: all of them.")] = None,
    day: Annotated[str | None, typer.Option(help="This day, from 2026-01-01 to 2026-01-05.")] = None,
    all_days: Annotated[bool, typer.Option("--all", help="Every demo day that has not landed yet.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A list of objects instead of sentences.")] = False,
) -> None:
    """Drop the next demo day of CIFAR-10 and MNIST into the landing zone, as a person would drop files of their own.

    Without --day or --all a day lands only when the last one that landed is taken or held, so that nights and days keep
    in step. What has landed is never overwritten.
    """
    from nightshift.stack.settings import find_root

    if day is not None and day not in demo.DAYS:
        raise NightshiftError(f"{day} is no demo day", f"choose one of {', '.join(demo.DAYS)}", exit_code=2)
    root = find_root()
    take_settings("admin")
    zones = landing_zones(root, dataset)
    downloads = root / demo.DOWNLOADS
    done = []
    for name, url in zones.items():
        store = open_store(url)
        if day or all_days:
            wanted = demo.DAYS if all_days else (day,)
            landed = [d for d in wanted if d and demo.land(name, d, store, downloads)]
            message = ", ".join(landed) + " landed" if landed else "nothing to do, it has landed already"
        else:
            one = demo.land_next(name, store, taken_or_held(root, name), downloads)
            landed = [one] if one else []
            message = f"{one} landed" if one else _why_not(name, store)
        done.append({"dataset": name, "landing": url, "landed": landed, "message": message})
        if not json:
            typer.echo(f"{name}: {message}")
    if json:
        typer.echo(json_.dumps(done, indent=2))


def landing_zones(root: Path, dataset: str | None = None) -> dict[str, str]:
    """The landing zone of each demo data set that params.yaml names, or of the one asked for.

    Raises:
        NightshiftError: params.yaml has no such data set, or it has no demo days.
    """
    datasets: dict[str, Any] = (yaml.safe_load((root / "params.yaml").read_text()) or {}).get("datasets") or {}
    if dataset is None:
        return {name: datasets[name]["landing"] for name in demo.SOURCES if name in datasets}
    if dataset not in datasets or dataset not in demo.SOURCES:
        raise NightshiftError(
            f"{dataset} has no demo days",
            f"choose one of {', '.join(name for name in demo.SOURCES if name in datasets)}, or drop files of your own "
            "below date=YYYY-MM-DD/ of its landing zone",
            exit_code=2,
        )
    return {dataset: datasets[dataset]["landing"]}


def taken_or_held(root: Path, dataset: str) -> set[str]:
    """The days about which a night has decided: in this checkout's snapshot, or held by validation."""
    from nightshift.engine import held

    index = root / "data" / "profiles" / dataset / "index.json"
    taken = set(json_.loads(index.read_text())["partitions"]) if index.is_file() else set()
    work = os.environ.get("NIGHTSHIFT_WORK")
    return taken | ({item["date"] for item in held.days(open_store(work), dataset)} if work else set())


def _why_not(dataset: str, store: Store) -> str:
    landed = demo.landed_days(dataset, store)
    if len(landed) == len(demo.DAYS):
        return "every demo day has landed"
    return f"{landed[-1]} has landed and waits for a night; --day or --all land more"
