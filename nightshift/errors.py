"""The one error that a person sees.

NightshiftError
└── Refused        a rule said no (a fence, a held day, something that waits for a person)

``nightshift.releases`` has errors of its own (it imports nothing of ours).
"""


class NightshiftError(Exception):
    """What is wrong, in words that name the thing, and the next step.

    ``exit_code`` is that of the command line: 1 failed, 2 wrong use, 3 held or refused by a rule.
    """

    exit_code = 1

    def __init__(self, message: str, next_step: str = "", *, exit_code: int | None = None):
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next_step}" if self.next_step else self.message


class Refused(NightshiftError):
    """A rule said no; nothing is broken."""

    exit_code = 3
