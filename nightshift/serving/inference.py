"""Where models run: a fast one at once in the event loop, a slow one in a thread."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nightshift.serving.call import Call

_INLINE_BYTES = 128 << 10  # bigger inputs, or a model slower than this, would hold up everybody in the event loop
_INLINE_SECONDS = 0.002


class Inference:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(thread_name_prefix="infer")

    async def run(self, call: Call, arrays: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
        """The named outputs of ``call.model`` for these inputs. Raises RequestError 400."""
        model = call.model
        assert model is not None  # noqa: S101 - whoever asks has found it
        call.items = len(next(iter(arrays.values())))
        size = sum(array.nbytes for array in arrays.values())
        began = time.perf_counter()
        if size <= _INLINE_BYTES and model.seconds <= _INLINE_SECONDS:
            results = model.run(arrays, names)
        else:
            results = await asyncio.get_running_loop().run_in_executor(self._threads, model.run, arrays, names)
        call.computed, call.batch = time.perf_counter() - began, call.items
        call.inputs, call.outputs = arrays, dict(zip(names, results, strict=True))
        return results
