"""``python -m pipelines.publish MODEL``: the release is in the registry; nobody is given it.

Content-addressed and create-only, so doing it again changes nothing. Without the right to write the registry, the
release goes to ``incoming`` of the work bucket, and deploy publishes the run's package. The receipt names only what a
function of the release can name, never where it went.
"""

import json
import os
import sys
from pathlib import Path

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseError, StoreDenied
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store


def main(model: str) -> None:
    folder = Path("artifacts/releases", model)
    manifest = manifests.verify(folder)
    home = Path(os.environ.get("NIGHTSHIFT_HOME") or ".nightshift").absolute()
    url = os.environ.get("NIGHTSHIFT_REGISTRY") or str(home / "registry")
    work = os.environ.get("NIGHTSHIFT_WORK")
    try:
        digest = Registry(open_store(url)).publish(folder)
    except StoreDenied as denied:
        if not work:
            raise StoreDenied(
                denied.message, "use keys that may write there, or set NIGHTSHIFT_WORK for releases that await deploy"
            ) from None
        url = f"{work.rstrip('/')}/incoming"
        digest = Registry(open_store(url)).publish(folder)
    receipt = Path("artifacts/receipts", f"{model}.json")
    receipt.parent.mkdir(parents=True, exist_ok=True)
    said = {"model": model, "digest": digest, "model_digest": manifest.model_digest}
    receipt.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")
    print(f"publish {model}: release {manifests.short(digest)} is in {url}", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ReleaseError, OSError) as error:
        sys.exit(f"publish {' '.join(sys.argv[1:])}: {error}")
