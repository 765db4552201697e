"""``nightshift rollback MODEL --reason TEXT``: make an earlier release serve again."""

import getpass
import json as json_
from typing import Annotated

import typer
from rich.console import Console

from nightshift.cli.connect import connect
from nightshift.errors import NightshiftError
from nightshift.releases.ledger import rollback_target
from nightshift.releases.manifest import short
from nightshift.releases.promotion import promote


def rollback(
    model: Annotated[str, typer.Argument(help="The model.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
    to: Annotated[str | None, typer.Option(help="Digest to serve; without it, the champion before this one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of text.")] = False,
) -> None:
    """Make an earlier release serve again, and prove it. No night orders the one it replaces again.

    Exit status: 0 proven (or superseded by a newer order), 1 refused.
    """
    connection = connect()
    if not reason.strip():
        raise NightshiftError("a rollback needs a reason", "say why with --reason", exit_code=2)
    if to:
        digest = connection.registry.resolve(model, to)
    else:
        target = rollback_target(connection.ledger.history(model))
        if target is None:
            raise NightshiftError(
                f"{model} has no earlier champion to go back to",
                f"name a release with --to: `nightshift releases {model}`, `nightshift history {model}`",
            )
        digest = target.digest
    console = Console(stderr=True)
    result = promote(
        connection.registry,
        connection.ledger,
        model,
        digest,
        endpoints=connection.endpoints,
        who=getpass.getuser(),
        what="rollback",
        reason=reason,
        evidence={},
        deadline_s=120,
        say=lambda line: console.print(line, markup=False, style="dim"),
    )
    if json:
        order = result.order.model_dump(mode="json") if result.order else None
        answer = {"state": result.state, "model": model, "digest": digest, "reason": result.reason, "order": order}
        typer.echo(json_.dumps(answer, indent=2))
    else:
        color = "green" if result.exit_code == 0 else "red"
        Console().print(f"[{color}]{result.state}[/] {model} {short(digest)}: ", end="")
        Console().print(result.reason, markup=False)
        if result.exit_code:
            Console().print(f"  next: see `nightshift history {model}` and the endpoint's log")
    raise typer.Exit(result.exit_code)
