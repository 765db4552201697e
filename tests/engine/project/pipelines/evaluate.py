import json
import sys
from pathlib import Path

key = sys.argv[1]
model = Path("artifacts/models", key, "model.onnx").read_bytes()
opponent = json.loads(Path("champions", f"{key}.json").read_text())["digest"]
folder = Path("artifacts/evaluations", key)
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(json.dumps({"size": len(model), "opponent": opponent}))
