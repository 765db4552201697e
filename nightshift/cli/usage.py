"""``nightshift usage``: what was asked of the endpoint, and what it costs."""

import csv as csv_
import json as json_
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nightshift.cli.connect import store_of
from nightshift.errors import NightshiftError
from nightshift.serving import usage as usages
from nightshift.serving.usage import Prices


class By(StrEnum):
    """What a line is about."""

    key = "key"
    model = "model"
    version = "version"


def usage(
    since: Annotated[str | None, typer.Option("--from", help="First day (UTC); else the first of this month.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Last day (UTC), included; else today.")] = None,
    by: Annotated[list[By] | None, typer.Option(help="key, model or version; repeatable; else key and model.")] = None,
    prices: Annotated[
        Path | None, typer.Option(help="A table of prices (YAML); else prices.yaml, if it is here.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="An object with `rows`.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, with a header.")] = False,
) -> None:
    """Requests, items and seconds of computing, per key and model, with their price where there is one."""
    if json and csv:
        raise NightshiftError("--json and --csv are two answers", "give one of them", exit_code=2)
    today = datetime.now(UTC).date()
    first, last = _date(since, today.replace(day=1)), _date(until, today)
    table = _prices(prices)
    asked = [one.value for one in by or [By.key, By.model]]
    # A price is a model's: rows are priced before the models are added up.
    rows = usages.read(store_of("served"), first, last)
    costs: dict[tuple[str, ...], Decimal] = {}
    for row in rows:
        where = tuple(getattr(row, name) for name in asked)
        costs[where] = costs.get(where, Decimal(0)) + (table.of(row) if table else 0)
    lines = [
        {
            **dict(zip(asked, where, strict=True)),
            "requests": total.requests,
            "items": total.items,
            "compute_seconds": round(total.compute_seconds, 3),
            **({"cost": round(float(costs[where]), 6), "currency": table.currency} if table else {}),
        }
        for where, total in usages.sums(rows, asked).items()
    ]
    if json:
        typer.echo(json_.dumps({"from": str(first), "to": str(last), "rows": lines}, indent=2))
    elif csv:
        names = [*asked, "requests", "items", "compute_seconds", *(["cost", "currency"] if table else [])]
        writer = csv_.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    else:
        _print(lines, asked, table, first, last)


def _print(lines: list[dict[str, Any]], asked: list[str], table: Prices | None, first: date, last: date) -> None:
    if not lines:
        Console().print(f"nothing was asked from {first} to {last} (the endpoint writes every {usages.FLUSH_S:.0f} s)")
        return
    shown = Table(*asked, box=None)
    for name in ("requests", "items", "compute s", *([table.currency] if table else [])):
        shown.add_column(name, justify="right")
    for line in lines:
        numbers = [str(line["requests"]), str(line["items"]), f"{line['compute_seconds']:.3f}"]
        cost = [f"{line['cost']:.4f}"] if table else []
        shown.add_row(*(escape(str(line[name])) or "[dim](no key)[/]" for name in asked), *numbers, *cost)
    Console().print(shown)


def _date(text: str | None, default: date) -> date:
    try:
        return date.fromisoformat(text) if text else default
    except ValueError:
        raise NightshiftError(f"{text!r} is no day", "write it as 2027-01-31", exit_code=2) from None


def _prices(file: Path | None) -> Prices | None:
    """The table; None when no file was named and there is no prices.yaml here."""
    path = file or Path("prices.yaml")
    if not path.exists():
        if file:
            raise NightshiftError(f"there is no file {file}", "give a table of prices (docs/keys.md)", exit_code=2)
        return None
    try:
        return Prices.model_validate(yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, ValidationError) as error:
        raise NightshiftError(f"{path} is no table of prices: {error}", "write it as in docs/keys.md") from error
