"""``models.<model>.card``."""

from pipelines.params.section import Section


class Card(Section):
    """Sentences of the model card that no stage can know."""

    data: str
    """Where the data come from and whom to cite."""
    licence: str
    """Under which terms they come."""
    use: str
    """What the model is meant for, and what not."""
