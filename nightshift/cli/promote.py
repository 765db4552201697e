"""``nightshift promote MODEL DIGEST --reason TEXT``: a person's force."""

import os
from typing import Annotated

import typer

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.order import demand, order
from nightshift.errors import NightshiftError
from nightshift.releases.ledger import SLOWER, Canary
from nightshift.releases.signing import own_key


def promote(
    model: Annotated[str, typer.Argument(help="The model.")],
    digest: Annotated[str, typer.Argument(help="The release: its digest, or the first characters of it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger, beside the gate's verdict.")],
    canary: Annotated[
        str | None,
        typer.Option(help="Try it first on this share of the requests, as 10%; what is no worse is promoted."),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="How long the canary is tried.")] = 30,
    requests: Annotated[int, typer.Option(min=1, help="How many requests it must have answered by then.")] = 500,
    times: Annotated[float, typer.Option(min=1.1, help="How many times slower it may be, or an answer rarer.")] = 2,
    slower: Annotated[
        float, typer.Option(min=1, help="How many times as long as the champion its golden requests may take.")
    ] = SLOWER,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of text.")] = False,
) -> None:
    """Make this release serve, whatever the gate said of it, and prove it.

    The rules that bind nights do not bind a person: an order is put, and lifts the bar of a model that was rolled back.
    With a key in NIGHTSHIFT_SIGNING_KEY the release is signed first.
    Exit status: 0 proven (or superseded by a newer order), 1 refused: then the release before serves on.

    With --canary the endpoints give it that share of the requests first. It is refused at once when it is proven to
    fail more often than the champion, to be slower or to answer differently, and at the end when it answered too few.

    Example: nightshift promote cifar10-cnn 3f9ac01b77de --reason "the gate lacked rows; checked by hand" --canary 10%
    """
    demand(reason, "promotion")
    tried = Canary(weight=_share(canary), minutes=minutes, requests=requests, times=times) if canary else None
    connection = connect(registry=registry)
    full = connection.registry.resolve(model, digest)
    order(connection, model, full, "promote", reason, tried, slower, own_key(os.environ), as_json=json)


def _share(text: str) -> float:
    """``10%`` or ``0.1`` as a share. Raises NightshiftError (wrong use)."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0
    if not 0 < share < 1:
        raise NightshiftError(f"--canary {text} is no share of the requests", "give it as 10% or 0.1", exit_code=2)
    return share
