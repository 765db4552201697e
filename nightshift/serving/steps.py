"""Coroutines that run right here until they wait for something, without a task.

One that waits for nothing costs neither a task nor a turn of the event loop; asyncio's eager tasks are that from Python
3.12 on.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def step(coroutine: Coroutine[Any, Any, Any], ours: object, again: Callable[[], None]) -> bool:
    """Let it go on until it waits for the next thing, and whether that is ``ours``, which the caller brings.

    Of anything else, ``again`` is called when it is there. Raises StopIteration with the result at the end, and
    what the coroutine raises.
    """
    waits = coroutine.send(None)
    if waits is ours:
        return True
    if waits is None:  # for the next turn only
        asyncio.get_running_loop().call_soon(again)
    else:
        waits._asyncio_future_blocking = False  # as a task does with what it waits for
        waits.add_done_callback(lambda _: again())
    return False
