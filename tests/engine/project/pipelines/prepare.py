import sys
from pathlib import Path

key = sys.argv[1]
numbers = [n for f in sorted(Path("data", key).glob("*.parquet")) for n in f.read_text().split()]
for split, rows in (("train", numbers), ("test", numbers[:2])):
    folder = Path("artifacts/datasets", key, split)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.txt").write_text("\n".join(rows))
    (folder / "keys.txt").write_text("\n".join(f"key-{n}" for n in rows))
