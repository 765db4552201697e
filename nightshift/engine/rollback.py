"""A person's roll-back from the Airflow UI: the same order, proof and outcome as `nightshift rollback`."""

from nightshift.engine.deploy import EXIT
from nightshift.engine.report import Receipt, say
from nightshift.engine.settings import as_deployer, setting
from nightshift.errors import NightshiftError
from nightshift.releases.collect import rollback_digest
from nightshift.releases.ledger import Ledger
from nightshift.releases.promotion import promote
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store

DEADLINE_S = 120


def rollback(model: str, to: str | None, reason: str, who: str, run: str) -> Receipt:
    """Order the release ``to`` (a digest or its first characters; None: the champion before) and wait for the outcome.

    Raises:
        NightshiftError: no reason (wrong use), or no earlier champion.
        ReleaseError: there is no such release, or the registry does not answer.
    """
    if not reason.strip():
        raise NightshiftError("a rollback needs a reason", "fill in the form's field `reason`", exit_code=2)
    as_deployer()
    store = open_store(setting("NIGHTSHIFT_REGISTRY"))
    registry, ledger = Registry(store), Ledger(store)
    digest = registry.resolve(model, to) if to else rollback_digest(registry, ledger, model)
    if digest is None:
        raise NightshiftError(f"{model} has no earlier champion to go back to", "name a release in the form's `to`")
    result = promote(
        registry,
        ledger,
        model,
        digest,
        endpoints=setting("NIGHTSHIFT_ENDPOINTS").split(","),
        who=who,
        what="rollback",
        reason=reason,
        evidence={"run": run},
        deadline_s=DEADLINE_S,
        say=say,
    )
    order = result.order.sequence if result.order else None
    return Receipt(
        result.state, f"{model} {digest[:12]}: {result.reason}", {"digest": digest, "order": order}, EXIT[result.state]
    )
