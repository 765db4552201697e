"""``nightshift diff A B``: two releases side by side."""

import json as json_
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.lookup import DECISION, METRICS, find, read
from nightshift.releases.compare import compare
from nightshift.releases.manifest import short


def diff(
    a: Annotated[str, typer.Argument(metavar="DIGEST|MODEL", help="A digest's first characters, or a model.")],
    b: Annotated[str, typer.Argument(metavar="DIGEST|MODEL", help="The other; a model means its champion.")],
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="One object: per section, name: [in A, in B].")] = False,
) -> None:
    """What differs between two releases: data, code, parameters, toolchain, metrics, size and verdict.

    Example: nightshift diff cifar10-cnn 3f9ac01b77de
    """
    connection = connect(registry=registry)
    infos = find(connection, a), find(connection, b)
    manifests = [connection.registry.manifest(info.model, info.digest) for info in infos]
    metrics, decisions = ([read(connection, info, path) for info in infos] for path in (METRICS, DECISION))
    found = compare(manifests[0], manifests[1], (metrics[0], metrics[1]), (decisions[0], decisions[1]))
    if json:
        typer.echo(json_.dumps({"a": infos[0].digest, "b": infos[1].digest, **found}, indent=2))
        return
    console = Console()
    console.print(
        f"{infos[0].model} [bold]{short(infos[0].digest)}[/]  {infos[1].model} [bold]{short(infos[1].digest)}"
    )
    same = [section for section, differences in found.items() if not differences]
    for section, differences in found.items():
        if differences:
            table = Table(section, short(infos[0].digest), short(infos[1].digest), box=None)
            for name, (left, right) in differences.items():
                table.add_row(escape(name), _cell(left), _cell(right))
            console.print(table)
    if same:
        console.print(f"no difference: {', '.join(same)}")


def _cell(value: Any) -> str:
    if value is None:
        return "[dim]-[/]"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return escape(short(text) if len(text) in (32, 64) and text.isalnum() else text)
