"""What a verb of the engine says: lines while it works, and one receipt at the end."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def say(text: str) -> None:
    """One line for the person who reads the task's log, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Receipt:
    """How a verb ended: a word, a sentence, whatever else the caller may show, and the exit status."""

    outcome: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0

    def write(self, file: Path) -> None:
        """As JSON, in place: the caller made the file and keeps it open."""
        file.write_text(json.dumps({"outcome": self.outcome, "message": self.message, **self.details}, indent=1) + "\n")
