"""The statistics of a release, of all processes together."""

import asyncio
from pathlib import Path

from nightshift.serving.processes import Peers
from nightshift.serving.statistics import Statistics
from tests.serving.calls import ended, loaded
from tests.serving.world import World, serving


def test_the_sums_of_two_processes_are_added_and_a_silent_one_is_left_out(tmp_path: Path) -> None:
    model = loaded(tmp_path / "release")
    folder = tmp_path / "peers"
    folder.mkdir()

    async def told() -> tuple[list[dict], list[dict]]:
        first, second = Peers(folder, 0, 3), Peers(folder, 1, 3)
        both = Statistics(first), Statistics(second)
        await second.listen()
        for statistics in both:
            statistics.watch(ended(model, items=3, batch=6))
            statistics.watch(ended(model, items=3, batch=6))
            statistics.watch(ended(model, status=400))
            statistics.watch(ended(model, verb="ready"))
            statistics.watch(ended(None, status=404))
        return await both[0].tell([model]), await both[0].tell([])

    (found,), nothing = asyncio.run(told())
    assert nothing == []
    assert (found["name"], found["version"]) == ("toy", model.version)
    assert (found["inference_count"], found["execution_count"]) == (12, 2)
    assert found["inference_stats"]["success"]["count"] == 4
    assert found["inference_stats"]["fail"]["count"] == 2
    assert found["inference_stats"]["queue"] == {"count": 4, "ns": 1_200_000}
    assert found["inference_stats"]["compute_infer"] == {"count": 4, "ns": 8_000_000}


def test_a_model_with_the_name_of_the_statistics_answers(world: World) -> None:
    with serving(world, {"stats": world.publish(model="stats")}) as endpoint:
        assert endpoint.infer("stats").status_code == 200
        assert endpoint.client.get("/v2/models/stats/config").json()["name"] == "stats"
        found = endpoint.client.get("/v2/models/stats").json()["model_stats"]  # of all models, as Triton has it
        assert [(each["name"], each["inference_count"]) for each in found] == [("stats", 1)]
