"""One request from its headers to its answer: what metrics, logs, usage and samples are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.serving.model import LoadedModel

if TYPE_CHECKING:
    from nightshift.serving.keys import Key
    from nightshift.serving.lane import Lane


@dataclass(slots=True)
class Call:
    """Times in seconds, ``started`` and ``arrived`` by ``time.perf_counter()``.

    ``inputs`` and ``results`` (the outputs that it asked for) are the request's own arrays: whoever keeps them copies.
    """

    id: str  # the client's X-Request-Id when it is short and plain, else ours; stands in the answer's header
    protocol: str  # "rest" or "grpc"
    verb: str  # "infer", "predict", …; empty until it is routed
    started: float
    arrived: float = 0.0  # when its body was whole; 0: with its headers
    key: str | None = None  # the API key's name
    known: "Key | None" = None  # that key, once it was found to be valid
    counted: bool = False  # against that key's quota
    model: LoadedModel | None = None
    lane: "Lane | None" = None  # where it is counted among those that the model has to answer
    role: str = ""  # "champion", "canary" or "pinned"
    received: int = 0  # bytes of the body, as they came
    holds: int = 0  # bytes of the memory that bodies may have together
    sent: int = 0  # bytes of the answer's body
    items: int = 0  # first dimension of the first input
    waited: float = 0.0  # between admission and the run
    computed: float = 0.0  # in ONNX Runtime: its share of a batch
    batch: int = 0  # items of the batch that it ran in; 0: no model ran
    seconds: float = 0.0  # from ``started`` to its answer
    status: int = 0  # HTTP; for gRPC the HTTP status of the same fault
    error: str = ""
    inputs: dict[str, np.ndarray] | None = None
    output_names: Sequence[str] = ()
    results: Sequence[np.ndarray] = ()

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        """By name; none if no model ran."""
        return dict(zip(self.output_names, self.results, strict=True))
