"""`nightshift down`: stops the stack of this checkout."""

from rich.console import Console

from nightshift.stack.lifecycle import down as bring_down
from nightshift.stack.settings import find_root


def down() -> None:
    """Stop this checkout's stack with its running tasks, and nothing else. No data is lost: `up` brings it back."""
    console = Console(soft_wrap=True, highlight=False)
    if not bring_down(find_root(), console.print):
        console.print("Nothing of this checkout was running.")
