"""A person's order, for `promote` and `rollback`: put it, follow its proof, say what became of it."""

import getpass
import json
from typing import Literal

import typer
from rich.console import Console

from nightshift.cli.connect import Connection
from nightshift.errors import NightshiftError
from nightshift.releases.ledger import Canary
from nightshift.releases.manifest import short
from nightshift.releases.promotion import promote
from nightshift.releases.signing import SigningKey

DEADLINE_S = 120


def demand(reason: str, what: str) -> None:
    """Raises NightshiftError (wrong use) when nothing was said."""
    if not reason.strip():
        raise NightshiftError(f"a {what} needs a reason", "say why with --reason", exit_code=2)


def order(
    connection: Connection,
    model: str,
    digest: str,
    what: Literal["promote", "rollback"],
    reason: str,
    canary: Canary | None = None,
    slower: float | None = None,
    key: SigningKey | None = None,
    *,
    as_json: bool,
) -> None:
    """Order this release (full digest) under this person's name, wait for the outcome, and exit with its status."""
    console = Console(stderr=True)
    result = promote(
        connection.registry,
        connection.ledger,
        model,
        digest,
        endpoints=connection.endpoints,
        who=getpass.getuser(),
        what=what,
        reason=reason,
        evidence={},
        deadline_s=DEADLINE_S,
        canary=canary,
        slower=slower,
        key=key,
        say=lambda line: console.print(line, markup=False, style="dim"),
    )
    if as_json:
        put = result.order.model_dump(mode="json") if result.order else None
        answer = {"state": result.state, "model": model, "digest": digest, "reason": result.reason, "order": put}
        typer.echo(json.dumps(answer, indent=2))
    else:
        color = "green" if result.exit_code == 0 else "red"
        Console().print(f"[{color}]{result.state}[/] {model} {short(digest)}: ", end="")
        Console().print(result.reason, markup=False)
        if result.state == "barred":
            Console().print(f"  next: choose another release, or `nightshift retire {model} … --undo --reason …`")
        elif result.exit_code:
            Console().print(f"  next: see `nightshift history {model}` and the endpoint's log")
    raise typer.Exit(result.exit_code)
