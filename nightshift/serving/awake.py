"""Between the requests of a caller that asks one after the other, the event loop stays awake.

A core that sleeps has to be woken: on a virtual machine that is 3 % (gRPC) to 10 % (REST) of the time between two
answers of a small model. So who has asked STREAK times in a row within STAY_S of the answer before is expected to do so
once more, and for that long the loop looks for it. A caller that takes longer is waited for as ever, and costs nothing
in between; where several ask at once there is always something to do; a request that takes long does not notice the
waking. Whatever else wants the core meanwhile gets it.
"""

import asyncio
import os
import time

from nightshift.serving.call import Call

STAY_S = 0.0004  # from an answer on: what a caller beside the endpoint takes at most, if it does little else
STREAK = 8
SHORT_S = 0.002  # that a request takes at most


class Awake:
    """A watcher of calls. ``stays`` says whether the loop is kept awake now."""

    def __init__(self) -> None:
        self.stays = False
        self._streak = 0
        self._answered = 0.0

    def watch(self, call: Call) -> None:
        """A call that ended."""
        again = 0 <= call.started - self._answered < STAY_S and call.seconds < SHORT_S
        self._streak = self._streak + 1 if again else 0
        self._answered = call.started + call.seconds
        if self._streak >= STREAK and not self.stays:
            self.stays = True
            asyncio.get_running_loop().call_soon(self._stay)

    def _stay(self) -> None:
        """One look: what has come by now is handled before the next."""
        os.sched_yield()
        if time.perf_counter() - self._answered < STAY_S:
            asyncio.get_running_loop().call_soon(self._stay)
        else:
            self.stays = False
