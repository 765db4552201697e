"""The endpoint: follows the ledger and answers the Open Inference Protocol v2.

tensors       the protocol's tensors to numpy, every value checked; binary: as raw bytes; json_reader: out of JSON
protocol      an inference request's body to arrays, and arrays to an answer; grpc_tensors: of gRPC messages;
              forms: what is remembered of requests that clients repeat
model         one loaded release: verified, warmed, its golden requests answered; memory: given back to the system
engine        the models that serve now: champion, canary, pinned
inference     from an admitted request to results: what waits is bounded in time, what waits together runs together;
              lane: the requests of one model; turn: of the event loop
follow        reads the ledger and swaps; load: an order's release, or why not; processes: several on one port as one
canary        what a canary and its champion were asked and answered
guard         who may ask: keys, limits, hosts; what was used, and the audit log
call          one request from its headers to its answer; watch has who watches it: metrics, logs, samples, statistics
door          refuses at once while everybody waits too long for a turn; bodies: within their limits
front         what REST and gRPC have in common
rest          method, path and body to an answer, bodies within their limits; knows nothing of a server
people        pictures, texts and rows to tensors, and answers to labels; openapi and site: the pages
grpc_server   the protocol over gRPC, on its own port; grpc_metadata: what a call says beside its message
http1         HTTP/1.1 between llhttp and uvloop, within limits; exchange: the requests that it hands on, and answers;
              http2: between zttp and uvloop, for gRPC
listener      who comes, over either; steps: coroutines without tasks; server: the process around it all
"""
