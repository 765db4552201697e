"""`nightshift schedule on|off`: the nightly schedule's switch."""

from enum import StrEnum
from typing import Annotated

import typer

from nightshift.stack import schedule as nightly
from nightshift.stack.settings import find_root


class Switch(StrEnum):
    """Whether the nights start by themselves."""

    on = "on"
    off = "off"


def schedule(
    to: Annotated[Switch | None, typer.Argument(help="Leave it out to see the schedule.", show_default=False)] = None,
) -> None:
    """Turn the nightly schedule on or off. When is said in params.yaml (schedule.cron and schedule.timezone)."""
    root = find_root()
    if to is not None:
        was = nightly.schedule_of(root)["on"]
        nightly.switch(root, to is Switch.on)
        try:
            nightly.schedule_of(root)  # a cron line that nobody can read is found now, not at night
        except Exception:
            nightly.switch(root, was)
            raise
    typer.echo(f"The schedule is {nightly.schedule_of(root)['words']}.")
    if to is Switch.on:
        typer.echo("Nights start while the stack is up (nightshift up); Airflow knows within half a minute.")
