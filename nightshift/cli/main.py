"""The command ``nightshift``: a file per verb beside this one, loaded when the verb is typed.

Help and completion list the verbs from the table below, so they answer without importing torch, DVC, Airflow or boto3.
"""

import importlib
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from nightshift.errors import NightshiftError

VERBS = {
    "The stack of this machine": {
        "doctor": "Look around: what is here, what is missing, what would stop a night.",
        "up": "Start the S3 server, Airflow and the endpoint; leave alone what is healthy.",
        "down": "Stop this checkout's stack, and only it.",
        "status": "What runs, where, and what serves.",
        "schedule": "Turn the nightly schedule on or off.",
        "reset": "Remove everything that the stack made: data, models, history.",
    },
    "The night": {
        "land": "Drop the next demo day into the landing zone.",
        "ingest": "Take what has landed into the snapshot of this checkout.",
        "plan": "What tonight will do, and what will stop it, before it runs.",
        "accept": "Let a held day in, by name and with a reason.",
        "drop": "Take a day out, held or in the snapshot, by name and with a reason.",
        "night": "Start, land, train, prove and serve: one night, followed to its end.",
        "pull-run": "Bring the exact state of a run into this checkout or a folder.",
        "why": "What changed for each stage of a run, and what became of it.",
        "housekeeping": "Remove by age what old runs left in S3.",
    },
    "The graph": {
        "graph": "The stages of a dvc.yaml, their edges and hints, and what cannot be run.",
    },
    "The frozen rows": {
        "renew": "Freeze fresh rows to judge by, from a day on.",
    },
    "Releases and the ledger": {
        "releases": "The releases in the registry.",
        "show": "One release: files, figures, decision, lineage.",
        "diff": "What differs between two releases.",
        "history": "Every order of a model, and what became of it.",
        "what-served": "What answered at a moment, and why.",
        "trace": "From an answer or a release back to its data.",
        "promote": "Make a release serve by name, whatever the gate said.",
        "rollback": "Make an earlier release serve again.",
        "sign": "Vouch for a release with the team's key.",
        "signing-key": "Make the key that releases are signed with.",
        "copy": "A release, or all and the ledger, to another registry.",
        "verify": "Compute every digest of the registry again.",
        "keep": "Protect a release from removal.",
        "retire": "End a model or a release: never ordered again.",
        "gc": "Remove the releases that nothing needs any more.",
    },
    "The endpoint": {
        "serve": "Run an endpoint that follows the ledger.",
        "predict": "Ask the endpoint about images.",
        "keys": "Make, list and revoke API keys of the endpoint; read its audit log.",
        "usage": "What was asked of the endpoint, by whom, and what it costs.",
    },
}


class Verbs(TyperGroup):
    """A group whose commands are names and one-line helps until one of them is called."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        for panel, verbs in VERBS.items():
            for name, line in verbs.items():
                self.add_command(TyperCommand(name, help=line, rich_help_panel=panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name and command else command, rest


def load(verb: str) -> Any:
    """The command of ``nightshift/cli/<verb>.py``: its function of the same name (``pull-run``: ``pull_run``), or its
    group of verbs."""
    name = verb.replace("-", "_")
    try:
        found = getattr(importlib.import_module(f"nightshift.cli.{name}"), name)
    except ModuleNotFoundError as error:
        raise _lacks(verb, error) from error
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    single = typer.Typer(add_completion=False)
    single.command(verb)(found)
    return typer.main.get_command(single)


def _lacks(verb: str, error: ModuleNotFoundError) -> Exception:
    """What a person can do about it. One of our own modules that is missing is our mistake, and stays a traceback."""
    module = (error.name or "").partition(".")[0]
    if module in ("", "nightshift", "pipelines"):
        return error
    return NightshiftError(
        f"{verb} needs {module}, which is not installed",
        "in a clone: `make install` installs all that it has; with pip: pip install '.[airflow,train,serve]'",
    )


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nightshift {version('nightshift-ml')}")
        raise typer.Exit


app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback(
    epilog="Exit status: 0 done, 1 failed, 2 wrong use, 3 held or refused by a rule. NO_COLOR=1 switches colours off."
)
def nightshift(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Every night: new data, a better model, proven, published and serving by morning."""


def run() -> None:
    """The entry point: an error that a person can act on is two lines, never a traceback."""
    try:
        app()
    except Exception as raised:
        error = _lacks("the command", raised) if isinstance(raised, ModuleNotFoundError) else raised
        from nightshift.releases.errors import ReleaseError  # here: most calls end well

        if not isinstance(error, NightshiftError | ReleaseError):
            raise
        _say(error)
        sys.exit(error.exit_code)


def _say(error: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text("nightshift: ", style="bold red") + Text(error.message))
    if error.next_step:
        console.print(Text("  next: ", style="bold") + Text(error.next_step))


if __name__ == "__main__":
    run()
