"""The programs that are compared, each run by the Python of its own environment: PROGRAM FOLDER PORT GRPC_PORT.

``FOLDER`` holds ``model.onnx`` and, for torch, ``model.pt2``; for a program that is imported by its server it is in the
environment as ``MODEL_FOLDER``. So is in how many ``PROCESSES`` it shall infer. Each is written as its library's own
first pages show it.
"""
