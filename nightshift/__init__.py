"""Nightshift: every night, new data into a better model that is proven, published and serving by morning."""

import os

# DVC and ONNX Runtime tell their makers of whoever runs them, models' names included, unless these are set before they
# are imported. In the environment, since stages and commands are processes of their own; who sets them, decides.
NO_TELEMETRY = {"DVC_NO_ANALYTICS": "1", "ORT_DISABLE_TELEMETRY": "1"}
for _name, _value in NO_TELEMETRY.items():
    os.environ.setdefault(_name, _value)
