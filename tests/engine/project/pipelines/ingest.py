"""Days are text files of numbers; the contract is that of the real one."""

import argparse
import hashlib
import json
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("dataset")
for name in ("until", "held", "report"):
    parser.add_argument(f"--{name}")
parser.add_argument("--plan", action="store_true")
args = parser.parse_args()

landing = Path(os.environ["NIGHTSHIFT_REGISTRY"]).with_name("landing") / args.dataset
data, profiles = Path("data", args.dataset), Path("data/profiles", args.dataset)
index_file = profiles / "index.json"
index = json.loads(index_file.read_text()) if index_file.exists() else {}
held = {(day["date"], day["checksum"]) for day in json.loads(Path(args.held).read_text())}
report = {"taken": [], "held": [], "skipped_after_until": [], "changed": [], "removed": []}
for file in sorted(landing.glob("*.txt")):
    day, content = file.stem, file.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    if day > args.until:
        report["skipped_after_until"].append(day)
    elif (day, checksum) in held:
        report["held"].append({"date": day, "checksum": checksum, "reason": "held"})
    elif index.get(day, {}).get("checksum") != checksum:
        rows = len(content.splitlines())
        taken = {"date": day, "checksum": checksum, "rows": rows, "why": "replaced" if day in index else "new"}
        report["taken"].append(taken | {"landed": checksum, "sure": True, "files": 1, "bytes": len(content)})
        if args.plan:
            continue
        index[day] = {"checksum": checksum, "rows": rows}
        for folder in (data, profiles):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"date={day}.parquet").write_bytes(content)
            report["changed"].append(f"{folder}/date={day}.parquet")
gone = set() if args.plan else set(index) - {file.stem for file in landing.glob("*.txt")}
for day in sorted(gone):
    del index[day]
    report["removed"] += [f"{folder}/date={day}.parquet" for folder in (data, profiles)]
if report["changed"] or report["removed"]:
    profiles.mkdir(parents=True, exist_ok=True)
    index_file.write_text(json.dumps(index, sort_keys=True))
    report["changed"].append(str(index_file))
report["rows"] = sum(day["rows"] for day in index.values())
Path(args.report).write_text(json.dumps(report))
print("ingested", args.dataset)
