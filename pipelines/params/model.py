"""``models.<model>``: the whole entry. Stages load their own part of it; ``python -m pipelines.params`` checks all."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.params.evaluate import Evaluate
from pipelines.params.gate import Gate
from pipelines.params.package import Card
from pipelines.params.section import Section
from pipelines.params.train import Train


class Canary(Section):
    """How a night's release is tried beside the champion first; see docs/updating.md."""

    weight: Annotated[float, Field(gt=0, lt=1)]
    """Its share of the requests that name no version."""
    minutes: Annotated[float, Field(gt=0)]
    requests: Annotated[int, Field(ge=1)]
    """How many it must have answered in that time."""
    times: Annotated[float, Field(gt=1)] = 2.0
    """How many times slower it may be, and how much more or less often it may give an answer."""


class Deploy(Section):
    """What the night does with the release."""

    policy: Literal["automatic", "approval", "never"]
    """What a pass leads to: it serves, a person is asked first, or nobody is given it."""
    approval_hours: Annotated[float, Field(gt=0)] | None = None
    """How long a person has to answer; then the champion stays. None: a day."""
    on_not_passed: Literal["skip", "fail"]
    """The colour of a night whose challenger did not pass."""
    timeout_seconds: Annotated[int, Field(ge=1)]
    """How long every endpoint has to prove the release."""
    slower: Annotated[float, Field(gt=1)] = 10.0
    """How many times as long as the champion its golden requests may take."""
    canary: Canary | None = None
    """None: it serves at once."""
    signed: Literal["required"] | None = None
    """Required: a worker without a signing key orders nothing; see docs/signing.md."""


class Model(Section):
    """One model: its data set, its task, its family and what each stage asks of it."""

    dataset: str
    task: str
    family: str
    train: Train
    evaluate: Evaluate
    gate: Gate
    card: Card
    deploy: Deploy
