"""How rows are split: ``datasets.<d>.prepare``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.params.section import Section

Share = Annotated[float, Field(gt=0, lt=1)]


class Renewal(Section):
    """Fresh frozen rows, asked for with ``nightshift renew``."""

    from_: Annotated[str, Field(alias="from", pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """The first day whose rows belong to them, in quotes: DVC keeps dates as texts."""
    reason: Annotated[str, Field(min_length=1)]


class Frozen(Section):
    """The rows that no model is trained on, in three shares chosen by their keys: test has what the others leave.

    Every night looks at *test*, at *confirm* only after test passes, and *publish* is read only for the accuracy that
    is published.
    """

    share: Share | None = None
    """With ``split: hash``: the share of all rows that is frozen."""
    confirm: Share
    publish: Share
    least: Annotated[int, Field(ge=1)]
    """Renewed rows judge once there are this many; until then the ones before go on."""
    renewed: list[Renewal]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.confirm + self.publish >= 1:
            raise ValueError("confirm and publish together leave nothing for test")
        days = [renewal.from_ for renewal in self.renewed]
        if days != sorted(set(days)):
            raise ValueError("renewed must be in the order of their days, each day once")
        return self


class Prepare(Section):
    """``official``: the source marks the rows to freeze. ``hash``: a row's key decides, for ever."""

    split: Literal["official", "hash"]
    val: Share
    """Share of the training rows, chosen by their keys: a row that is in ``val`` once is there for ever."""
    frozen: Frozen

    @model_validator(mode="after")
    def _share_fits_split(self) -> Self:
        if (self.frozen.share is None) == (self.split == "hash"):
            needs = "needs frozen.share" if self.split == "hash" else "takes no frozen.share: the source marks its rows"
            raise ValueError(f"split: {self.split} {needs}")
        return self
