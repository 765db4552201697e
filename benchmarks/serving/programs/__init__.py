"""The programs that are compared, each run by the Python of its own environment: PROGRAM FOLDER PORT [GRPC_PORT].

``FOLDER`` holds ``model.onnx`` and, for torch, ``model.pt2``. Each is written as its library's own first pages show it.
"""
