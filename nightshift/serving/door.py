"""Whether a stranger still gets a turn soon; if not, he is refused at once and for little.

What waits for a busy process stands where none of its code can count it: in sockets that are not read yet. But all that
wait are read in the next turn of the event loop, one after the other, so who is read late in a long turn has waited
long: since that turn began, and up to as long before. Of a turn that takes longer than it may, all that is still to be
read is refused, before a key, a model or a body is looked at.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator

from nightshift.serving.metrics import Fact
from nightshift.serving.turn import Turn

TOO_MUCH = "too much waits already; ask again"
TURN_S = 0.1  # of a turn in which requests are let in
MANY = 32  # requests of a turn that are let in however long it takes: fewer are no queue, the machine is slow
_CALM_S = 1.0  # without a refusal, after which it is over

log = logging.getLogger("nightshift.serving")


class Door:
    """Of one process; the event loop's. ``refused`` counts whom it sent away, by protocol."""

    def __init__(self, turn: Turn) -> None:
        self.refused = Counter(rest=0, grpc=0)
        self._turn = turn
        self._number = 0  # of the turn in which so many came, and when that began
        self._came = 0
        self._began = 0.0
        self._said = 0  # of those refused, how many were when the log last spoke of it
        self._seen = 0  # and how many at the last look whether it is over

    def refuses(self, protocol: str) -> bool:
        """Whether the request that came now is one of those that are refused; it is counted here, and nowhere else."""
        now, number = time.perf_counter(), self._turn.number()
        if number != self._number:
            self._number, self._came, self._began = number, 0, now
        self._came += 1
        if self._came <= MANY or now - self._began <= TURN_S:
            return False
        if self.refused.total() == self._said:
            log.warning("too much to do: requests wait longer than %.1f s for their turn; some are refused", TURN_S)
            asyncio.get_running_loop().call_later(_CALM_S, self._look)
        self.refused[protocol] += 1
        return True

    def facts(self) -> Iterator[Fact]:
        """Who was refused here, for the metrics: nobody else has seen those requests."""
        for protocol, count in self.refused.items():
            yield "nightshift_requests", ("", "", "", protocol, "infer", "503"), count

    def _look(self) -> None:
        refused = self.refused.total()
        if refused != self._seen:
            self._seen = refused
            asyncio.get_running_loop().call_later(_CALM_S, self._look)
        else:
            log.warning("a request has its turn soon again; %d were refused", refused - self._said)
            self._said = refused
