"""``models.<model>.evaluate``."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.params.section import Section


class Slices(Section):
    """Parts of the test rows on which challenger and champion are compared too."""

    labels: bool
    """Each label is one."""
    groups: dict[str, Annotated[list[str], Field(min_length=1)]]
    """Named sets of labels."""


class Evaluate(Section):
    """How a model is measured."""

    max_difference: Annotated[float, Field(gt=0, lt=1)]
    """The most by which a probability of the exported program may differ from that of the weights."""
    bins: Annotated[int, Field(ge=2, le=100)]
    """Equal bins of confidence, of the calibration plot and error."""
    slices: Slices
    perturbations: list[Literal["noise", "blur", "shift"]]
    """How the test images are made worse, to see whether the answers hold."""
