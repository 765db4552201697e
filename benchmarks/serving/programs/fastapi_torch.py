"""What many people write first: FastAPI, pydantic and torch."""

import sys
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

folder, port = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
model = torch.export.load(folder / "model.pt2").module()
app = FastAPI()


class Images(BaseModel):
    data: list[list[list[list[float]]]]


@app.post("/predict")
def predict(images: Images) -> list[list[float]]:
    with torch.inference_mode():
        return model(torch.tensor(images.data)).tolist()


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
