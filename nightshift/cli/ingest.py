"""``nightshift ingest DATASET``: into the checkout, for a person; the nights do it by themselves."""

import json as json_
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import typer

from nightshift.cli.connect import take_settings
from nightshift.errors import NightshiftError


def ingest(
    dataset: Annotated[str, typer.Argument(help="A name below datasets: of params.yaml.")],
    until: Annotated[str | None, typer.Option(help="The last day that counts, YYYY-MM-DD. Default: yesterday.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The report as JSON, without the lines of progress.")] = False,
) -> None:
    """Take what has landed into this checkout's snapshot and its data.dvc; nothing is pushed or committed."""
    from nightshift.engine.ingest import ingest_into
    from nightshift.stack.settings import find_root

    if until is not None and not _is_date(until):
        raise NightshiftError(f"--until {until} is no date", "write it as YYYY-MM-DD", exit_code=2)
    root = find_root()
    take_settings("worker")
    last = until or (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    report: dict[str, Any] = ingest_into(root, dataset, last)
    if json:
        typer.echo(json_.dumps(report, indent=2))
        return
    changed = len(report["changed"]) + len(report["removed"])
    typer.echo(f"data.dvc: {changed} file(s) changed; next: dvc repro" if changed else "data.dvc: as it was")


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
