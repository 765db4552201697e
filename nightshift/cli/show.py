"""``nightshift show DIGEST|MODEL``: one release."""

import json as json_
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from nightshift.cli.connect import Connection, connect
from nightshift.errors import NightshiftError
from nightshift.releases.errors import ReleaseCorrupt
from nightshift.releases.manifest import Tensor, short
from nightshift.releases.registry import ReleaseInfo

DECISION = "decision.json"


def show(
    release: Annotated[str, typer.Argument(metavar="DIGEST|MODEL", help="A digest's first characters, or a model.")],
    json: Annotated[bool, typer.Option("--json", help="One object instead of tables.")] = False,
) -> None:
    """One release: its files, signature, decision, lineage and orders. A model's name means its champion."""
    connection = connect()
    info = _find(connection, release)
    manifest = connection.registry.manifest(info.model, info.digest)
    orders = [
        {"sequence": order.sequence, "what": order.what, "outcome": outcome.state if outcome else None}
        for order, outcome in connection.ledger.history(info.model)
        if order.digest == info.digest
    ]
    facts: dict[str, Any] = {
        **manifest.model_dump(mode="json"),
        "digest": info.digest,
        "decision": _decision(connection, info),
        "orders": orders,
    }
    if json:
        typer.echo(json_.dumps(facts, indent=2))
        return
    console = Console()
    console.print(f"[bold]{info.model}[/]  {info.digest}")
    console.print(f"{manifest.task}, verdict [bold]{manifest.verdict}[/], model digest {short(manifest.model_digest)}")
    for order in orders:
        console.print(f"order {order['sequence']}: {order['what']}, {order['outcome'] or 'no outcome yet'}")
    table = Table("file", "size", "sha256", box=None)
    for file in manifest.files:
        table.add_row(file.path, decimal(file.size), short(file.sha256))
    console.print(table)
    console.print(f"takes   {_tensors(manifest.signature.inputs)}")
    console.print(f"answers {_tensors(manifest.signature.outputs)}")
    for reason in (facts["decision"] or {}).get("reasons", []):
        console.print(f"decision: {escape(str(reason))}")
    console.print("lineage:")
    console.print_json(data=manifest.lineage)


def _find(connection: Connection, release: str) -> ReleaseInfo:
    if connection.registry.list(release) or release in connection.ledger.models():
        live = connection.ledger.live(release)
        if live is None:
            raise NightshiftError(
                f"nothing serves for {release} yet", f"name one of its releases: `nightshift releases {release}`"
            )
        return ReleaseInfo(release, live.digest)
    return connection.registry.find(release)


def _decision(connection: Connection, info: ReleaseInfo) -> Any:
    try:
        return json_.loads(connection.registry.read(info.model, info.digest, DECISION))
    except ReleaseCorrupt:
        return None  # a release made by hand needs no decision


def _tensors(tensors: tuple[Tensor, ...]) -> str:
    return escape(", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in tensors))
