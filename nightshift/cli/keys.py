"""``nightshift keys``: who may ask the endpoint."""

import getpass
import json as json_
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nightshift.cli.connect import store_of
from nightshift.serving import audit as audits
from nightshift.serving.keys import Key, Keys, Revocation

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys of the endpoint.", add_completion=False)


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; a name is given once.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="predict (if none is given), predict:MODEL, metrics or admin; repeatable.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="90d, 2027-01-31 or 2027-01-31T18:00Z; else never.")] = None,
    rate: Annotated[str | None, typer.Option(help="At most so fast: 10/s or 600/m.")] = None,
    quota: Annotated[str | None, typer.Option(help="At most so many answers: 1000/day or 20000/month (UTC).")] = None,
    json: Annotated[bool, typer.Option("--json", help="An object with `key` and what is known of it.")] = False,
) -> None:
    """Make a key and show it, once: only its digest is kept. From the first key on every caller needs one."""
    secret, key = Keys(store_of("keys")).create(
        name, by=getpass.getuser(), scopes=tuple(scope or ["predict"]), expires=expires, rate=rate, quota=quota
    )
    if json:
        typer.echo(json_.dumps({"key": secret, **_facts(key, None)}, indent=2))
        return
    Console(stderr=True).print(f"[dim]{escape(name)} may {_may(key)}. The key is shown this once:[/]", soft_wrap=True)
    typer.echo(secret)


@keys.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="A list of objects, by name.")] = False) -> None:
    """All keys ever made, with what they may and whether they are still valid."""
    made, revoked = Keys(store_of("keys")).read()
    if json:
        typer.echo(json_.dumps([_facts(key, revoked.get(name)) for name, key in sorted(made.items())], indent=2))
        return
    table = Table("name", "state", "may", "made (UTC)", "by", box=None)
    for name, key in sorted(made.items()):
        state, color = _state(key, revoked.get(name))
        made_at = f"{key.made:%Y-%m-%d %H:%M}"
        table.add_row(escape(name), f"[{color}]{escape(state)}[/]", _may(key), made_at, escape(key.made_by))
    Console().print(table if made else "no keys yet: nightshift keys create NAME")


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "no reason given",
) -> None:
    """Take a key back: a few seconds later it opens nothing. It cannot be given again."""
    found = Keys(store_of("keys")).revoke(name, by=getpass.getuser(), reason=reason)
    typer.echo(f"{name} is revoked since {found.at:%Y-%m-%d %H:%M:%S} UTC: {found.reason}")


@keys.command()
def audit(json: Annotated[bool, typer.Option("--json", help="A list of objects, oldest first.")] = False) -> None:
    """Administrative acts, oldest first: keys made and revoked, refreshes, attempts that were refused."""
    acts = audits.read(store_of("served"), store_of("keys"))
    if json:
        typer.echo(json_.dumps(acts, indent=2))
        return
    table = Table("when (UTC)", "act", "who", "outcome", "request", box=None)
    for act in acts:
        words = [escape(act[name]) for name in ("act", "who", "outcome", "request")]
        table.add_row(act["at"][:19].replace("T", " "), *words)
    Console().print(table if acts else "nothing yet")


def _facts(key: Key, revoked: Revocation | None) -> dict[str, Any]:
    facts = key.model_dump(mode="json", exclude={"format", "digest"})
    took = revoked.model_dump(mode="json", exclude={"format", "name"}) if revoked else None
    return {**facts, "state": _state(key, revoked)[0].partition(" ")[0], "revoked": took}


def _state(key: Key, revoked: Revocation | None) -> tuple[str, str]:
    """``valid``, ``expired …`` or ``revoked …``, and its colour."""
    if revoked:
        return f"revoked {revoked.at:%Y-%m-%d}: {revoked.reason}", "red"
    if key.expires and key.expires <= datetime.now(UTC):
        return f"expired {key.expires:%Y-%m-%d %H:%M}", "yellow"
    return "valid", "green"


def _may(key: Key) -> str:
    until = f"until {key.expires:%Y-%m-%d %H:%M}" if key.expires else ""
    return ", ".join(filter(None, [*key.scopes, key.rate, key.quota, until]))
