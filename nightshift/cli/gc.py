"""``nightshift gc``: remove the releases that nothing needs any more."""

import getpass
import json as json_
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from nightshift.cli.connect import RegistryOption, connect
from nightshift.errors import NightshiftError
from nightshift.releases.collect import Found, remove, survey
from nightshift.releases.manifest import short


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go and what stays.")] = False,
    days: Annotated[int, typer.Option(min=0, help="What was published in the last so many days stays.")] = 30,
    orders: Annotated[int, typer.Option(min=0, help="What the newest so many orders of a model name stays.")] = 10,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="A list of objects: every release, and why it stays.")] = False,
) -> None:
    """Remove releases that nothing needs: retired ones, old ones without a part in the ledger's newest orders.

    The champion, what was ordered and is not settled, what a rollback goes back to, what is kept, and the opponents in
    this checkout's champions/ never go. A night, a person or a publisher may be at work meanwhile.

    Example: nightshift gc --dry-run --days 90
    """
    connection = connect(registry=registry)
    rules: dict[str, Any] = {"days": days, "orders": orders, "opponents": _opponents(Path("champions"))}
    found = survey(connection.registry, connection.ledger, **rules)
    removed = []
    for each in found:
        if each.needed is None and (
            dry_run or remove(connection.registry, connection.ledger, each, who=getpass.getuser(), **rules)
        ):
            removed.append(each)
    if json:
        rows = [{**vars(each), ("would_go" if dry_run else "removed"): each in removed} for each in found]
        typer.echo(json_.dumps(rows, indent=2))
        return
    _print(found, removed, "would be removed" if dry_run else "removed")


def _print(found: list[Found], removed: list[Found], done: str) -> None:
    console = Console()
    if removed:
        table = Table("model", "digest", "size", "why", box=None)
        for each in removed:
            table.add_row(each.model, short(each.digest), decimal(each.bytes), each.why)
        console.print(table)
    stays: dict[str, int] = {}
    for each in found:
        if each not in removed:
            why = each.needed or "needed by now, or somebody else removes it"
            stays[why] = stays.get(why, 0) + 1
    size = decimal(sum(each.bytes for each in removed))
    console.print(f"{len(removed)} of {len(found)} releases {done}, {size}")
    if stays:
        console.print("stay: " + ", ".join(f"{count} {why}" for why, count in sorted(stays.items())), markup=False)


def _opponents(folder: Path) -> dict[str, str | None]:
    """The digests that the checkout's champion files name, by model."""
    named = {}
    for path in sorted(folder.glob("*.json")):
        try:
            named[path.stem] = json_.loads(path.read_text())["digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NightshiftError(f"{path} cannot be read: {error}", "bring it back with `git checkout`") from error
    return named
