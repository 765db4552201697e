import json
import sys
from pathlib import Path

key = sys.argv[1]
numbers = [int(n) for f in sorted(Path("data/profiles", key).glob("*.parquet")) for n in f.read_text().split()]
largest = 100
out = Path("artifacts/validations", key)
(out / "details").mkdir(parents=True, exist_ok=True)
(out / "details" / "numbers.json").write_text(json.dumps(numbers))
bad = [n for n in numbers if n > largest]
failed = [{"severity": "critical", "message": f"{n} is too large"} for n in bad]
verdict = {"verdict": "refuse" if bad else "pass", "rows": len(numbers), "failed": failed}
(out / "verdict.json").write_text(json.dumps(verdict))
