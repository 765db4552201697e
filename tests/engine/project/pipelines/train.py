import sys
from pathlib import Path

key = sys.argv[1]
model = next(line for line in Path("params.yaml").read_text().splitlines() if line.startswith(f"  {key}:"))
rows = Path("artifacts/datasets", model.partition("dataset: ")[2][0], "train", "x.txt").read_text()
folder = Path("artifacts/models", key)
folder.mkdir(parents=True, exist_ok=True)
with (folder / "epochs.csv").open("w") as epochs:
    epochs.write("epoch,loss\n")
    for epoch in range(2):
        print(f"epoch {epoch + 1}/2", flush=True)
        epochs.write(f"{epoch},{len(rows)}\n")
(folder / "model.onnx").write_text(model + rows)
