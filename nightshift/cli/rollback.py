"""``nightshift rollback MODEL --reason TEXT``: make an earlier release serve again."""

from typing import Annotated

import typer

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.order import demand, order
from nightshift.errors import NightshiftError
from nightshift.releases.collect import gone
from nightshift.releases.ledger import rollback_target
from nightshift.releases.marks import Marks


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
    if to:
        digest = connection.registry.resolve(model, to)
    else:
        history, marks = connection.ledger.history(model), Marks(connection.registry.store).of(model)
        target = rollback_target(history, gone(connection.registry, model, history, marks))
        if target is None:
            raise NightshiftError(
                f"{model} has no earlier champion to go back to",
                f"name a release with --to: `nightshift releases {model}`, `nightshift history {model}`",
            )
        digest = target.digest
    order(connection, model, digest, "rollback", reason, as_json=json)
