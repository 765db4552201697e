"""What many people write first: FastAPI, pydantic and torch; `uvicorn` imports it, in each of its workers."""

import os
from pathlib import Path

import torch
from fastapi import FastAPI
from pydantic import BaseModel

torch.set_num_threads(1)
model = torch.export.load(Path(os.environ["MODEL_FOLDER"]) / "model.pt2").module()
app = FastAPI()


class Images(BaseModel):
    data: list[list[list[list[float]]]]


@app.post("/predict")
def predict(images: Images) -> list[list[float]]:
    with torch.inference_mode():
        return model(torch.tensor(images.data)).tolist()
