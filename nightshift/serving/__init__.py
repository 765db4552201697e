"""The endpoint: follows the ledger and answers the Open Inference Protocol v2.

tensors   the protocol's JSON tensors to numpy and back, every value checked
model     one loaded release: verified, warmed, its golden requests answered
guard     who may ask: keys, limits, hosts; what was used, and the audit log
engine    the models that serve now, and one inference; knows nothing of HTTP
follow    reads the ledger, loads what it wants, swaps
rest      method, path and body to an answer; knows nothing of a server
server    the granian process around it
call      one request from its headers to its answer; watch has who watches it: metrics, logs, samples
"""
