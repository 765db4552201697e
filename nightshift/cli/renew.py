"""``nightshift renew``: fresh frozen rows for a data set.

Rows that were looked at for months are worn: whatever passed by luck stays. The verb writes a day into params.yaml; the
rows of that day and later are judged by as soon as there are enough, and the looks are counted anew.
"""

import json as json_module
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from nightshift.errors import NightshiftError
from nightshift.stack.settings import find_root

EDIT = "correct the file, or `git checkout params.yaml`"


def renew(
    dataset: Annotated[str, typer.Argument(help="A data set of params.yaml.")],
    reason: Annotated[str, typer.Option(help="Why: it is kept beside the day.")],
    since: Annotated[
        str | None, typer.Option("--from", metavar="YYYY-MM-DD", help="First day of the fresh rows; else the next one.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Freeze fresh rows to judge by: those of a day on which no model was trained yet.

    Until there are `frozen.least` of them the rows before go on judging. It edits params.yaml; commit it.
    """
    root = find_root()
    path = root / "params.yaml"
    frozen = _frozen(path, dataset)
    trained = max(
        (file.stem.removeprefix("date=") for file in (root / "data" / dataset).glob("date=*.parquet")), default=""
    )
    if not trained:
        raise NightshiftError(
            f"data/{dataset} holds no day: its first rows are fresh", "run a night, or `dvc pull`", exit_code=3
        )
    day = _day(since) if since else date.fromisoformat(trained) + timedelta(days=1)
    last = max((str(one["from"]) for one in frozen["renewed"]), default="")
    if day.isoformat() <= trained:
        raise NightshiftError(
            f"models were trained on days up to {trained}, and may have seen rows of {day}",
            f"freeze from a later day: --from {(date.fromisoformat(trained) + timedelta(days=1)).isoformat()}",
            exit_code=3,
        )
    if day.isoformat() <= last:
        raise NightshiftError(
            f"{dataset}: rows were frozen from {last} on already", "give a later day with --from", exit_code=3
        )
    _write(path, dataset, [*frozen["renewed"], {"from": day.isoformat(), "reason": reason}])
    done = {"dataset": dataset, "from": day.isoformat(), "least": frozen["least"], "reason": reason}
    if json:
        typer.echo(json_module.dumps(done, indent=2))
        return
    typer.echo(f"{dataset}: rows of {day} and later are frozen, and judge once there are {frozen['least']:,}")
    typer.echo(f"  next: git commit --all --message 'Fresh frozen rows of {dataset} from {day}'")


def _frozen(path: Path, dataset: str) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_text())["datasets"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise NightshiftError(f"{path}: datasets cannot be read: {error}", EDIT) from None
    if dataset not in entries:
        raise NightshiftError(f"{path} has no data set {dataset!r}", f"one of {', '.join(entries)}", exit_code=2)
    try:
        if entries[dataset]["prepare"].get("split") == "time":
            raise NightshiftError(
                f"{dataset}: its frozen rows are those of the newest days, which come anew by themselves",
                "wait for days, or change prepare.split (docs/gate.md)",
                exit_code=3,
            )
        frozen: dict[str, Any] = entries[dataset]["prepare"]["frozen"]
        frozen["renewed"], frozen["least"]
    except (KeyError, TypeError):
        raise NightshiftError(
            f"{path}: datasets.{dataset}.prepare.frozen lacks renewed or least", "write them (docs/gate.md)"
        ) from None
    return frozen


def _write(path: Path, dataset: str, renewed: list[dict[str, str]]) -> None:
    """Only the list itself changes in the text: comments and everything else stay as they are."""
    text = path.read_text()
    inside = re.compile(
        rf"(^datasets:\n(?:[ #].*\n|\n)*?^  {re.escape(dataset)}:[ ]*\n(?:(?:    .*|[ ]*#.*|)\n)*?[^\n]*?\brenewed:\s*)"
        r"\[[^\]]*\]",
        re.MULTILINE,
    )
    new, count = inside.subn(lambda match: match[1] + json_module.dumps(renewed, ensure_ascii=False), text, count=1)
    if not count or yaml.safe_load(new)["datasets"][dataset]["prepare"]["frozen"]["renewed"] != renewed:
        raise NightshiftError(
            f"{path}: renewed of {dataset} is not written as a list in brackets",
            f"write it yourself: renewed: {json_module.dumps(renewed, ensure_ascii=False)}",
        )
    temporary = path.with_suffix(".yaml.tmp")
    temporary.write_text(new)
    temporary.replace(path)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise NightshiftError(f"{text!r} is no day", "write it as YYYY-MM-DD", exit_code=2) from None
