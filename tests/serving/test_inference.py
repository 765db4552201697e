"""Those that are ready together run together and each gets its own answer; who is alone runs at once."""

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest

from nightshift.serving.call import Call
from nightshift.serving.grpc_server import Patience
from nightshift.serving.inference import Inference, Lane
from nightshift.serving.model import LoadedModel
from nightshift.serving.tensors import RequestError
from tests.releases.make import SHAPE
from tests.serving.calls import loaded


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded(tmp_path_factory.mktemp("inference") / "release")


def image(number: int, items: int = 1) -> dict[str, np.ndarray]:
    return {"image": np.full((items, *SHAPE), number, np.uint8)}


async def asked(inference: Inference, model: LoadedModel, arrays: dict[str, np.ndarray]) -> tuple[Call, np.ndarray]:
    call = Call("one", "rest", "infer", time.perf_counter(), model=model)
    inference.admit(call)
    try:
        await asyncio.sleep(0)  # as while a body arrives: all are let in before the first one runs
        (found,) = await inference.run(call, arrays, list(model.outputs))
    finally:
        inference.leave(call)
    return call, found


def test_those_that_are_ready_together_run_as_one_batch_in_which_each_has_its_own_rows(model: LoadedModel):
    asks = [image(7), image(3), image(200, items=2), image(90)]

    async def together() -> tuple[list[tuple[Call, np.ndarray]], ...]:
        inference = Inference()

        async def all_ask() -> list[tuple[Call, np.ndarray]]:
            return await asyncio.gather(*(asked(inference, model, arrays) for arrays in asks))

        first, found, alone = await all_ask(), await all_ask(), []
        for _ in range(2):
            alone += [await asked(inference, model, asks[0])]
        return first, found, alone

    first, found, alone = asyncio.run(together())
    assert [(call.items, call.batch) for call, _ in first] == [(1, 1), (1, 4), (2, 4), (1, 4)], (
        "who knew of the others?"
    )
    assert [(call.items, call.batch) for call, _ in found] == [(1, 5), (1, 5), (2, 5), (1, 5)]
    assert [(call.batch, call.waited > 0) for call, _ in alone] == [(1, True), (1, False)]
    for arrays, (_, answer) in zip(asks, found, strict=True):
        np.testing.assert_allclose(answer, model.run(arrays, list(model.outputs))[0], atol=1e-6)


def test_a_request_alone_waits_for_no_turn(model: LoadedModel):
    call, answer = asyncio.run(asked(Inference(), model, image(3)))
    assert (call.batch, call.waited) == (1, 0.0)
    np.testing.assert_array_equal(answer, model.run(image(3), list(model.outputs))[0])


def test_who_left_is_counted_no_more_and_may_not_run(model: LoadedModel):
    async def leave() -> None:
        inference = Inference()
        call = Call("one", "rest", "infer", time.perf_counter(), model=model)
        inference.admit(call)
        assert inference.in_flight == 1
        inference.leave(call)
        inference.leave(call)
        assert inference.in_flight == 0
        with pytest.raises(ValueError, match="not admitted"):
            await inference.run(call, image(1), list(model.outputs))

    asyncio.run(leave())


def test_a_queue_that_is_too_long_in_time_refuses(model: LoadedModel):
    async def crowd() -> str:
        inference = Inference(wait_s=0.0, threads=1)
        inference.admit(Call("one", "rest", "infer", time.perf_counter(), model=model))
        with pytest.raises(RequestError) as refused:
            inference.admit(Call("two", "rest", "infer", time.perf_counter(), model=model))
        assert (refused.value.status, list(refused.value.headers)) == (503, [("retry-after", "1")])
        return refused.value.message

    assert "toy has" in asyncio.run(crowd())


def test_patience_ends_what_takes_too_long_and_nothing_else():
    async def slow() -> str:
        with pytest.raises(TimeoutError), Patience(0.01):
            await asyncio.sleep(60)
        with Patience(60):
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)  # a timer that had stayed would end this
        return "on"

    assert asyncio.run(slow()) == "on"


def test_patience_leaves_a_cancellation_of_somebody_else_alone():
    async def cancelled() -> None:
        with Patience(60):
            await asyncio.sleep(60)

    async def cancel() -> bool:
        task = asyncio.create_task(cancelled())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancel())


def test_a_batch_whose_answers_leave_together_has_cost_the_turns_of_all(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    """A model that became ten times slower is seen to be so, or its queue would be let grow ten times as long."""
    lane, clock = Lane(model), [100.0]
    lane.turn = 1e-4
    monkeypatch.setattr("nightshift.serving.inference.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    for _ in range(100):
        since = clock[0]
        clock[0] += 32 * 1e-3
        for _ in range(32):
            lane.answered(since, 32)
    assert lane.turn == pytest.approx(1e-3, rel=0.3)
