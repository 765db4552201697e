"""What publisher, endpoint, UI and command line share: the release format, the registry and the ledger.

store      a bucket or a folder, with create-only writes
manifest   the file that lists a release's files, digests and signature
golden     requests with known answers, and how close an answer must be
registry   releases/<model>/<digest>/…
signing    releases/<model>/<digest>/manifest.<key id>.sig: who vouches for a release, and whose word counts
entries    what the ledger is made of: create-only JSON, each with its checksum
clock      the time by the store's clock
ledger     ledger/<model>/orders/<n>.json and …/outcomes/<n>.json
marks      ledger/<model>/marks/<n>.json: what people keep and retire
collect    removals/<model>/<digest>.json: what nobody needs any more, and its removal
copy       a release by its digest, or all of them and the ledger, into another registry
moment     what served when
compare    two releases side by side
verify     every digest of a registry, computed again
folder     a plain folder of releases, made into a registry that serves them
promotion  order, proof, outcome: deploy, promote and rollback are one function
"""
