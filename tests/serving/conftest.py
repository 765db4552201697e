from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.serving.world import Endpoint, World, serving


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def start(world: World) -> Iterator[Callable[..., Endpoint]]:
    """Starts endpoints on the world's registry and stops what still runs."""
    started: list[Endpoint] = []

    def start(
        environment: Mapping[str, str] | None = None, copies: str = "copies", options: Sequence[str] = ()
    ) -> Endpoint:
        started.append(world.endpoint(environment, copies, options).start())
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.stop()
        endpoint.client.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Endpoint, str]]:
    """One endpoint with one release, for tests that only ask."""
    world = World(tmp_path_factory.mktemp("served"))
    digest = world.publish()
    with serving(world, {"toy": digest}) as endpoint:
        yield world, endpoint, digest
