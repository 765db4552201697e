"""`nightshift reset`: removes everything that the stack and the nights made here."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from nightshift.errors import NightshiftError
from nightshift.stack import remove
from nightshift.stack.settings import find_root


def reset(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop the stack and remove its data: landing zone, snapshots, releases, ledger, Airflow's history, caches.

    What Git tracks stays as it is, the nights' commits too.
    """
    root, console = find_root(), Console(soft_wrap=True, highlight=False)
    found = remove.made(root)
    for name, size in found.items():
        console.print(f"{size:8.1f} MB  {root / name}")
    console.print(f"{sum(found.values()):8.1f} MB in all")
    if dry_run or not found:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise NightshiftError("reset removes all of this for good", "nightshift reset --yes", exit_code=2)
        typer.confirm("Remove all of this for good?", abort=True)
    removed = remove.remove(root, console.print)
    console.print(f"removed {sum(removed.values()):.1f} MB")
    if remove.names_a_lost_snapshot(root):
        console.print(
            "The branch still names the snapshot that was in there. To begin anew, bring data.dvc, dvc.lock and "
            "champions/ back to what they were before the first night: git log --oneline -- dvc.lock"
        )
