"""The turn that the event loop is in: it has what has become ready, and handles it before it looks for more."""

import asyncio


class Turn:
    """For all who count what comes in one; the event loop's."""

    def __init__(self) -> None:
        self._number = 0
        self._goes_on = False

    def number(self) -> int:
        """Another one in each turn."""
        if not self._goes_on:
            self._goes_on = True
            self._number += 1
            asyncio.get_running_loop().call_soon(self._end)
        return self._number

    def _end(self) -> None:
        self._goes_on = False
