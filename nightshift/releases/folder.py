"""A plain folder of releases, as a download or a USB stick has it, made into a registry that serves them.

folder/…/manifest.json + files  --each model's one release-->  into/releases/…, into/ledger/…
"""

from datetime import timedelta
from pathlib import Path

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseConflict, ReleaseUnknown
from nightshift.releases.ledger import Ledger, Outcome, now
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store


def registry_of(folder: Path, into: Path) -> dict[str, str]:
    """Make ``into`` a registry whose ledger says that each model's one release in ``folder`` serves.

    Releases are found by their manifest, at any depth. Doing it again changes nothing.

    Returns:
        The digest of each model.

    Raises:
        ReleaseUnknown: the folder holds no release. ReleaseConflict: it holds several of one model, and nothing says
            which is to serve. ReleaseCorrupt: a file is not what its manifest says.
    """
    places = sorted(path.parent for path in folder.rglob(manifests.NAME))
    if not places:
        raise ReleaseUnknown(f"{folder} holds no release", f"a release is a folder with {manifests.NAME} in it")
    found: dict[str, dict[str, Path]] = {}
    for place in places:
        manifest = manifests.verify(place)
        digest = manifests.digest((place / manifests.NAME).read_bytes())
        found.setdefault(manifest.model, {})[digest] = place
    for model, releases in found.items():
        if len(releases) > 1:
            names = ", ".join(sorted(map(manifests.short, releases)))
            raise ReleaseConflict(
                f"{folder} holds {len(releases)} releases of {model} ({names}), and no ledger says which is to serve",
                "leave one of them there, or publish them to a registry and `nightshift promote` one",
            )
    store = open_store(str(into))
    registry, ledger = Registry(store), Ledger(store)
    served = {}
    for model, releases in found.items():
        ((digest, place),) = releases.items()
        registry.publish(place)
        live = ledger.live(model)
        if live is None or live.digest != digest:
            order = ledger.order(
                model,
                digest=digest,
                model_digest=registry.manifest(model, digest).model_digest,
                who="nightshift serve",
                what="promote",
                reason=f"the one release of {model} in {folder}",
                evidence={},
                deadline=timedelta(minutes=1),
            )
            ledger.settle(order, Outcome(state="proven", reason="there is no other", at=now()))
        served[model] = digest
    return served
