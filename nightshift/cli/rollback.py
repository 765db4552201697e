"""``nightshift rollback MODEL --reason TEXT``: make an earlier release serve again."""

from typing import Annotated

import typer

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.order import demand, order
from nightshift.errors import NightshiftError
from nightshift.releases.collect import rollback_digest


def rollback(
    model: Annotated[str, typer.Argument(help="The model.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
    to: Annotated[str | None, typer.Option(help="Digest to serve; without it, the champion before this one.")] = None,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of text.")] = False,
) -> None:
    """Make an earlier release serve again, and prove it. No night orders the one it replaces again.

    Exit status: 0 proven (or superseded by a newer order), 1 refused.

    Example: nightshift rollback cifar10-cnn --reason "cats became dogs"
    """
    demand(reason, "rollback")
    connection = connect(registry=registry)
    registry_, ledger = connection.registry, connection.ledger
    digest = registry_.resolve(model, to) if to else rollback_digest(registry_, ledger, model)
    if digest is None:
        raise NightshiftError(
            f"{model} has no earlier champion to go back to",
            f"name a release with --to: `nightshift releases {model}`, `nightshift history {model}`",
        )
    order(connection, model, digest, "rollback", reason, as_json=json)
