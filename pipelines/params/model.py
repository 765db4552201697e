"""``models.<model>``: the whole entry. Stages load their own part of it; ``python -m pipelines.params`` checks all."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.params.evaluate import Evaluate
from pipelines.params.gate import Gate
from pipelines.params.package import Card
from pipelines.params.section import Section
from pipelines.params.train import Train


class Deploy(Section):
    """What the night does with the release."""

    on_not_passed: Literal["skip", "fail"]
    """The colour of a night whose challenger did not pass."""
    timeout_seconds: Annotated[int, Field(ge=1)]
    """How long every endpoint has to prove the release."""


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
