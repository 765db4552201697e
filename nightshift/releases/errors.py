"""The errors of releases; each message names the thing and the next step.

ReleaseError
├── StoreUnavailable     the registry's bucket or folder does not answer
│   └── StoreDenied      it answers, and these keys may not
├── ReleaseCorrupt       a file is not what its manifest or the format says
├── ReleaseUnknown       no such release, or several begin like this
├── ReleaseUnsigned      no key that is trusted here vouches for it
├── ReleaseConflict      something else is already stored under this name
└── FormatTooNew         written by a newer Nightshift
"""


class ReleaseError(Exception):
    """What is wrong, in words that name the thing, and the next step. ``exit_code`` is the command line's."""

    exit_code = 1

    def __init__(self, message: str, next_step: str = ""):
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next_step}" if self.next_step else self.message


class StoreUnavailable(ReleaseError):
    """The bucket or folder does not answer; nothing is known about what it holds."""


class StoreDenied(StoreUnavailable):
    """The bucket answers, but this identity has no right to do that there."""


class ReleaseCorrupt(ReleaseError):
    """A file is not what its manifest or the format says; it must not be used."""


class ReleaseUnknown(ReleaseError):
    """No such release, or several that begin with these characters."""


class ReleaseUnsigned(ReleaseError):
    """No key that is trusted here vouches for it; it must not be used, whole as it may be."""


class ReleaseConflict(ReleaseError):
    """Something else is already stored under a name that never changes."""


class FormatTooNew(ReleaseError):
    """Written by a newer Nightshift than this one."""
