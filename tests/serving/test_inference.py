"""Those that are ready together run together and each gets its own answer; who is alone runs at once."""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from nightshift.releases import manifest as manifests
from nightshift.releases.manifest import GOLDEN, PROGRAM
from nightshift.serving.call import Call
from nightshift.serving.inference import Inference
from nightshift.serving.lane import Lane
from nightshift.serving.model import LoadedModel, load
from nightshift.serving.tensors import RequestError
from nightshift.serving.turn import Turn
from tests.releases.make import SHAPE, make_release
from tests.serving.calls import loaded
from tests.serving.types_release import ONNX, make_types_release


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
        inference = Inference(Turn())

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


class Gated(LoadedModel):
    """Runs for real, in a thread only once the ``gate`` is open; refuses an image of 13. ``ran`` has where it ran, and
    how many items.
    """

    def __init__(self, model: LoadedModel):
        super().__init__(model.manifest, model.digest, model._session)
        self.gate = threading.Event()
        self.ran: list[tuple[bool, int]] = []

    def run(
        self,
        arrays: dict[str, np.ndarray],
        names: Sequence[str],
        options: onnxruntime.RunOptions | None = None,
    ) -> list[np.ndarray]:
        in_thread = threading.current_thread() is not threading.main_thread()
        self.ran.append((in_thread, len(arrays["image"])))
        assert not in_thread or self.gate.wait(20)
        if (arrays["image"] == 13).any():
            raise RequestError(400, "an image of 13")
        return super().run(arrays, names, options)


def test_a_long_batch_runs_beside_the_event_loop_and_who_comes_meanwhile_is_the_next(model: LoadedModel):
    gated = Gated(model)

    async def work() -> None:
        inference = Inference(Turn())

        def ask(*numbers: int) -> list[asyncio.Task[tuple[Call, np.ndarray]]]:
            return [asyncio.create_task(asked(inference, gated, image(number))) for number in numbers]

        await asyncio.gather(*ask(1, 2))  # from now on they expect company
        gated.ran.clear()
        inference._lane(gated).cost = 0.0006
        first = ask(3, 4)
        while not gated.ran:
            await asyncio.sleep(0.001)
        inference._lane(gated).cost = 0.0001
        meanwhile = ask(5, 6, 7)
        await asyncio.sleep(0.02)
        assert gated.ran == [(True, 2)]
        assert not any(task.done() for task in first + meanwhile)
        gated.gate.set()
        found = await asyncio.gather(*first, *meanwhile)
        assert gated.ran == [(True, 2), (False, 3)]
        assert [call.batch for call, _ in found] == [2, 2, 3, 3, 3]
        assert all(call.waited > 0.01 for call, _ in found[2:])
        for number, (_, answer) in zip(range(3, 8), found, strict=True):
            np.testing.assert_allclose(answer, model.run(image(number), list(model.outputs))[0], atol=1e-6)

    asyncio.run(work())


def test_who_is_at_fault_in_a_batch_beside_is_refused_alone(model: LoadedModel):
    gated = Gated(model)
    gated.gate.set()
    gated.seconds = 0.0009

    async def work() -> list[tuple[Call, np.ndarray] | BaseException]:
        inference = Inference(Turn())
        await asyncio.gather(*(asked(inference, gated, image(number)) for number in (1, 2)))
        gated.ran.clear()
        asks = [asked(inference, gated, image(number)) for number in (3, 13)]
        found = await asyncio.gather(*asks, return_exceptions=True)
        assert gated.ran == [(True, 2), (False, 1), (False, 1)]
        assert not inference._lane(gated).will_flush
        return found

    right, wrong = asyncio.run(work())
    assert isinstance(wrong, RequestError)
    assert isinstance(right, tuple)
    np.testing.assert_array_equal(right[1], model.run(image(3), list(model.outputs))[0])


def test_while_more_wait_than_one_batch_nobody_waits_for_a_thread(model: LoadedModel):
    gated = Gated(model)

    async def work() -> None:
        inference = Inference(Turn())
        await asyncio.gather(*(asked(inference, gated, image(number)) for number in (1, 2)))
        gated.ran.clear()
        inference._lane(gated).cost = 0.0015
        asks = [asyncio.create_task(asked(inference, gated, image(number))) for number in range(7)]
        while not gated.ran or gated.ran[-1][0] is False:
            await asyncio.sleep(0)
            inference._lane(gated).cost = 0.0015
        gated.gate.set()
        await asyncio.gather(*asks)
        assert gated.ran == [(False, 3), (False, 3), (True, 1)]

    asyncio.run(work())


def test_of_a_crowd_one_half_runs_while_the_other_is_read(model: LoadedModel):
    """Were all of them one batch, the event loop would have nothing to read meanwhile."""
    gated = Gated(model)
    gated.gate.set()

    async def work(crowd: int, cost: float) -> set[int]:
        inference = Inference(Turn())

        async def keep_asking() -> list[int]:
            found = []
            for _ in range(6):
                inference._lane(gated).cost = cost
                call, _ = await asked(inference, gated, image(7))
                found.append(call.batch)
            return found[2:]

        return {batch for found in await asyncio.gather(*(keep_asking() for _ in range(crowd))) for batch in found}

    assert max(asyncio.run(work(24, 0.0001))) == 12
    assert max(asyncio.run(work(16, 0.0001))) == 16, "half of them are no work for a thread"


def test_a_request_alone_waits_for_no_turn(model: LoadedModel):
    call, answer = asyncio.run(asked(Inference(Turn()), model, image(3)))
    assert (call.batch, call.waited) == (1, 0.0)
    np.testing.assert_array_equal(answer, model.run(image(3), list(model.outputs))[0])


def test_who_left_is_counted_no_more_and_may_not_run(model: LoadedModel):
    async def leave() -> None:
        inference = Inference(Turn())
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
        inference = Inference(Turn(), wait_s=0.0, threads=1)
        inference.admit(Call("one", "rest", "infer", time.perf_counter(), model=model))
        with pytest.raises(RequestError) as refused:
            inference.admit(Call("two", "rest", "infer", time.perf_counter(), model=model))
        assert (refused.value.status, list(refused.value.headers)) == (503, [("retry-after", "1")])
        return refused.value.message

    assert "toy has" in asyncio.run(crowd())


def test_a_batch_whose_answers_leave_together_has_cost_the_turns_of_all(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    """A model that became ten times slower is seen to be so, or its queue would be let grow ten times as long."""
    lane, clock = Lane(model, threads=2), [100.0]
    lane.turn = 1e-4
    monkeypatch.setattr("nightshift.serving.lane.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    for _ in range(100):
        since = clock[0]
        clock[0] += 32 * 1e-3
        for _ in range(32):
            lane.answered(since, 1, 32)
    assert lane.turn == pytest.approx(1e-3, rel=0.3)


def test_who_leaves_threads_idle_is_not_taken_for_a_queue(model: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    """Of a model of 20 ms on four threads: one after the other or four at a time, the next waits 5 ms more for each."""
    lane, clock = Lane(model, threads=4), [100.0]
    lane.cost = 0.02
    monkeypatch.setattr("nightshift.serving.lane.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    lane.forget_turn()
    assert lane.turn == pytest.approx(0.005)
    for others in (0, 3):
        lane.inside, lane.turn = others, 0.02
        for _ in range(500):
            since = clock[0] - 0.02 * others / 4  # who runs beside three others began as the one before it ended
            clock[0] = since + 0.02 if not others else clock[0] + 0.005
            lane.answered(since, 1, 1)
        assert lane.turn == pytest.approx(0.005, rel=0.05)


def test_a_request_whose_inputs_have_other_numbers_of_rows_shifts_nobody_elses(tmp_path: Path):
    kinds = {name: ONNX[name] for name in ("FP32", "INT64")}
    model = load(tmp_path / "types", "types", make_types_release(tmp_path / "types", kinds=kinds))
    assert model.can_batch

    def rows(number: int, more: int = 0) -> dict[str, np.ndarray]:
        integers = np.full((1 + more, 2), number, np.int64)
        return {"in_FP32": np.full((1, 2), number, np.float32), "in_INT64": integers}

    async def ask(inference: Inference, arrays: dict[str, np.ndarray]) -> tuple[Call, list[np.ndarray]]:
        call = Call("one", "rest", "infer", time.perf_counter(), model=model)
        inference.admit(call)
        await asyncio.sleep(0)
        found = await inference.run(call, arrays, list(model.outputs))
        inference.leave(call)
        return call, found

    async def all_ask() -> list[tuple[Call, list[np.ndarray]]]:
        inference = Inference(Turn())
        await asyncio.gather(*(ask(inference, rows(0)) for _ in range(2)))  # from now on they expect company
        return await asyncio.gather(*(ask(inference, arrays) for arrays in asks))

    asks = [rows(1), rows(2, more=1), rows(3), rows(4)]
    found = asyncio.run(all_ask())
    assert [call.batch for call, _ in found] == [3, 2, 3, 3]
    for arrays, (_, answers) in zip(asks, found, strict=True):
        for given, answer in zip(arrays.values(), answers, strict=True):
            np.testing.assert_array_equal(given, answer)


def test_a_program_that_looks_across_its_rows_answers_each_request_alone(tmp_path: Path):
    """It takes the mean of all rows off each: its tensors look like those of any other."""
    folder = tmp_path / "release"
    make_release(folder)
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["sums"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["sums"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["sums", "mean"], ["probabilities"]),
    ]
    inputs = [value("image", TensorProto.UINT8, ["batch", *SHAPE])]
    outputs = [value("probabilities", TensorProto.FLOAT, ["batch", SHAPE[0]])]
    graph = helper.make_graph(nodes, "mean", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / PROGRAM)
    session = onnxruntime.InferenceSession(folder / PROGRAM)
    cases = []
    for number in (3, 200):
        image = np.arange(number, number + np.prod(SHAPE), dtype=np.uint8).reshape(1, *SHAPE)
        (answer,) = session.run(None, {"image": image})
        data = {"datatype": "UINT8", "shape": list(image.shape), "data": image.ravel().tolist()}
        said = {"datatype": "FP32", "shape": list(answer.shape), "data": answer.ravel().tolist()}
        cases.append({"inputs": [{"name": "image", **data}], "outputs": [{"name": "probabilities", **said}]})
    (folder / GOLDEN).write_text(json.dumps({"format": 1, "tolerance": 1e-4, "cases": cases}))
    signature = {
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, SHAPE[0]]}],
    }
    about = {"model": "toy", "task": "tensors", "input": {"kind": "tensor"}, "lineage": {"opponent": None}}
    digest = manifests.write(folder, manifests.build(folder, signature=signature, verdict="pass", **about))
    assert not load(folder, "toy", digest).can_batch


def test_a_run_that_was_not_weighed_makes_no_model_dear(model: LoadedModel):
    lane = Lane(model, 2)
    lane.cost = 0.001
    assert lane.in_doubt
    lane.learn(1, 0.001)
    assert not lane.in_doubt
    lane.learn(2, 0.0022, weighed=False)  # about as long as ever, perhaps because of others
    assert (lane.cost, lane.in_doubt) == (0.001, False)
    lane.learn(2, 0.02, weighed=False)
    assert (lane.cost, lane.in_doubt) == (0.001, True)
    lane.learn(2, 0.02)
    assert (lane.cost, lane.in_doubt) == (pytest.approx(0.0019), False)
    lane.learn(1, 0.0009, weighed=False)
    assert lane.cost == pytest.approx(0.0018)
