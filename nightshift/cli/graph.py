"""`nightshift graph [DIR]`: the stages of a dvc.yaml with DVC's edges, as they become tasks of Airflow."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nightshift.engine import rules
from nightshift.errors import NightshiftError


def graph(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that holds a dvc.yaml.")] = Path(),
    json: Annotated[bool, typer.Option("--json", help="A list of objects instead of lines.")] = False,
) -> None:
    """Show every stage of the working tree with what it comes after and its hints; exit 1 when one cannot be run.

    Needs no Airflow, no Git and no data; `dvc.yaml` is read as it is, saved or committed.
    """
    if not (directory / "dvc.yaml").exists():
        raise NightshiftError(f"{directory.absolute()} holds no dvc.yaml", "name the folder that does", exit_code=2)
    try:
        from nightshift.engine import dvc_index

        found = dvc_index.read(directory)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("dvc"):
            raise
        raise NightshiftError(
            "DVC is not installed here", "in a clone: pip install '.[train]', or `make install`"
        ) from None
    stages = {**found["stages"], **found["elsewhere"]}
    if json:
        typer.echo(json_module.dumps([told(name, stage, found) for name, stage in stages.items()], indent=1))
    else:
        show(found, stages, Console(highlight=False))
    if found["refused"]:
        raise typer.Exit(1)


def told(name: str, stage: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """A stage for a program: names as DVC prints them, and ``refused`` where it cannot be run."""
    one = {
        "stage": name,
        "upstream": stage["upstream"],
        "hints": rules.hints(stage),
        "dag": rules.dag_of(stage) if name in found["stages"] else None,
        "desc": stage["desc"],
        "file": stage["file"],
        "line": stage["line"],
    }
    if refused := found["refused"].get(name):
        one["refused"] = "; ".join(f"{refusal['reason']} ({refusal['cure']})" for refusal in refused)
    return one


def show(found: dict[str, Any], stages: dict[str, Any], console: Console) -> None:
    """A table for each DAG, then what cannot be run, and why."""
    for dag in sorted({rules.dag_of(stage) for stage in found["stages"].values()}):
        mine = {name: stage for name, stage in found["stages"].items() if rules.dag_of(stage) == dag}
        ups = {up for stage in mine.values() for up in stage["upstream"] if up in found["stages"]}
        after = sorted({rules.dag_of(found["stages"][up]) for up in ups} - {dag})
        title = Text(dag, style="bold")
        title.append(f"  after {' and '.join(after)}" if after else "", style="dim")
        console.print(title)
        console.print(_table(mine, found["refused"]))
    if found["elsewhere"]:
        console.print(Text("in other files", style="bold"))
        console.print(_table(found["elsewhere"], found["refused"]))
    for name, refusals in found["refused"].items():
        for refusal in refusals:
            console.print(Text(rules.sentence(name, stages[name], refusal), style="red"), soft_wrap=True)
            console.print(Text(f"  next: {refusal['cure']}"), soft_wrap=True)
    count = f"{len(stages)} stage{'' if len(stages) == 1 else 's'}"
    console.print(f"{count}, {len(found['refused']) or 'none'} refused")


def _table(stages: dict[str, Any], refused: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, stage in stages.items():
        hints = ", ".join(f"{hint} {value}" for hint, value in rules.hints(stage).items() if hint != "dag")
        upstream = ", ".join(stage["upstream"])
        table.add_row(
            Text(f"  {name}", style="red" if name in refused else "green"),
            Text(f"after {upstream}" if upstream else ""),
            Text(hints, style="cyan"),
        )
    return table
