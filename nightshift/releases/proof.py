"""Proof over the wire: does every replica answer the golden requests with the wanted digest?"""

import os
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import httpx

from nightshift.releases import golden
from nightshift.releases.errors import ReleaseError
from nightshift.releases.golden import Golden
from nightshift.releases.ledger import Ledger, Order, Outcome, now, superseded
from nightshift.releases.manifest import short
from nightshift.releases.signing import UNSIGNED

_NOBODY_WAS_ASKED = frozenset({401, 403, 421, 429})  # refused before any model was asked: that says nothing about it
_NOT_NOW = frozenset({408, 502, 503, 504})  # too much to do, no memory, or a proxy that reaches nobody: that passes

# A proxy of the person's environment has no business between processes of one machine.
LOOPBACK = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}


def http_client(timeout_s: float = 10) -> httpx.Client:
    """For asking endpoints as whoever deploys: with the key and the authority that the environment names."""
    key = os.environ.get("NIGHTSHIFT_ENDPOINT_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(timeout=timeout_s, mounts=LOOPBACK, headers=headers, verify=authority())


def authority() -> ssl.SSLContext | bool:
    """What an endpoint's certificate is checked against: the file of NIGHTSHIFT_CA, else the usual authorities.

    Raises ReleaseError when that file cannot be read or holds no certificate.
    """
    file = os.environ.get("NIGHTSHIFT_CA")
    if not file:
        return True
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError too
        raise ReleaseError(
            f"{file} of NIGHTSHIFT_CA cannot be used: {error.strerror or error}",
            "name the PEM file of the authority that signed the endpoint's certificate, or unset NIGHTSHIFT_CA",
        ) from error


@dataclass
class Replica:
    """One endpoint URL and what is known of it. ``fault`` is "endpoint" while nothing speaks against the release."""

    url: str
    state: Literal["waiting", "proven", "refused"] = "waiting"
    reason: str = "was not asked yet"
    fault: Literal["release", "endpoint"] = "endpoint"
    told: bool = field(default=False, repr=False)


def prove(
    client: httpx.Client,
    endpoints: Sequence[str],
    ledger: Ledger,
    order: Order,
    requests: Golden,
    patience: timedelta,
    say: Callable[[str], None],
) -> Outcome:
    """Wait until every replica proves the order, one refuses it, a newer order is put, or the time is over.

    Writes nothing: the caller settles the order with the returned outcome.
    """
    replicas = [Replica(url) for url in endpoints]
    until, pause = time.monotonic() + patience.total_seconds(), 0.1
    while True:
        for replica in replicas:
            if replica.state == "waiting":
                _ask(client, replica, order, requests)
                if replica.state == "proven":
                    say(f"{replica.url} answers as {short(order.digest)}")
        # After they were asked: one that follows a newer order by now answers by that, which is no fault of this one.
        newest = ledger.newest(order.model)
        if newest and newest.sequence > order.sequence:
            return superseded(newest)
        refused = [replica for replica in replicas if replica.state == "refused"]
        waiting = [replica for replica in replicas if replica.state == "waiting"]
        if refused:
            reason = f"{refused[0].url} {refused[0].reason}"
            return Outcome(state="refused", reason=reason, fault=refused[0].fault, at=now())
        if not waiting:
            reason = f"{len(replicas)} of {len(replicas)} replicas agree on {len(requests.cases)} golden requests"
            return Outcome(state="proven", reason=reason, replicas=tuple(endpoints), at=now())
        if time.monotonic() >= until:
            fault: Literal["release", "endpoint"] = (
                "endpoint" if all(replica.fault == "endpoint" for replica in waiting) else "release"
            )
            reason = f"{waiting[0].url} {waiting[0].reason} at the deadline"
            return Outcome(state="refused", reason=reason, fault=fault, at=now())
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def tell(client: httpx.Client, url: str) -> bool:
    """Ask a replica to read the ledger now instead of at its next poll; False when it does not answer."""
    try:
        return client.post(f"{url}/refresh").status_code == 200
    except httpx.HTTPError:
        return False


def reachable(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/v2/health/live").status_code == 200
    except httpx.HTTPError:
        return False


def denied(answer: httpx.Response) -> str | None:
    """What an endpoint has against the key that this process asks with; None when it lets it in."""
    if answer.status_code not in (401, 403):
        return None
    has = "this process has the one in" if os.environ.get("NIGHTSHIFT_ENDPOINT_KEY") else "this process has none in"
    return f"{_said(answer)} ({has} NIGHTSHIFT_ENDPOINT_KEY)"


def _said(answer: httpx.Response) -> str:
    """The sentence of a refusal; a proxy before the endpoint may refuse in other words."""
    try:
        return str(answer.json()["error"])
    except (KeyError, ValueError, TypeError):
        return f"answers {answer.status_code}"


def _ask(client: httpx.Client, replica: Replica, order: Order, requests: Golden) -> None:
    """Update what is known of one replica."""
    try:
        if not replica.told:
            replica.told = tell(client, replica.url)
        answer = client.get(f"{replica.url}/status")
        no_key = denied(answer)
        if no_key:  # final: a key does not become the right one by waiting, and meanwhile the release would serve
            replica.state, replica.reason, replica.fault = "refused", no_key, "endpoint"
            return
        status = answer.json() if answer.status_code == 200 else {}
        for process in status["processes"]:
            if not _stands(replica, process, order):
                return
        wrong = _wrong_answer(client, replica.url, order, requests)
    except _NotAsked as error:
        replica.state, replica.reason, replica.fault = "refused", str(error), "endpoint"
    except _NotNow as error:
        replica.reason, replica.fault = str(error), "endpoint"
    except httpx.HTTPError as error:
        replica.reason, replica.fault = f"does not answer ({type(error).__name__})", "endpoint"
    except (KeyError, ValueError, TypeError, AttributeError):
        replica.reason, replica.fault = "does not answer like a Nightshift endpoint", "endpoint"
    else:
        replica.state, replica.reason = ("refused", wrong) if wrong else ("proven", "agrees")
        replica.fault = "release"


class _NotAsked(Exception):
    """An endpoint refused a golden request before it asked the release."""


class _NotNow(Exception):
    """An endpoint has no room for a golden request at the moment: it is asked again until the deadline."""


def _stands(replica: Replica, process: dict[str, Any] | None, order: Order) -> bool:
    """Whether this process of a replica serves the order; if not, the replica says why."""
    if process is None:
        replica.reason, replica.fault = "has a process that does not answer", "endpoint"
        return False
    of_model = process["models"].get(order.model, {})
    refused, canary = of_model.get("refused"), of_model.get("canary") or {}
    by = canary if order.kind == "canary" else of_model
    serving = canary.get("digest") if order.kind == "canary" else of_model.get("serving")
    if refused and refused["sequence"] == order.sequence:
        replica.state, replica.reason = "refused", f"refuses it: {refused['reason']}"
        # Whose signature counts is the endpoint's to say: signed with another key the same release may serve.
        replica.fault = "endpoint" if refused.get("kind") == UNSIGNED else "release"
        return False
    if serving != order.digest:
        replica.reason = _serves_else(order, serving)
        replica.fault = "release"
        if process.get("problem"):
            replica.reason += f" ({process['problem']})"
            replica.fault = "endpoint"  # it cannot read the registry: that says nothing about the release
        return False
    if by.get("sequence") != order.sequence or (canary and order.kind == "champion"):
        # By an older order: then a canary answers beside it, or is about to.
        replica.reason, replica.fault = "has not followed the order yet", "endpoint"
        return False
    return True


def _serves_else(order: Order, serving: str | None) -> str:
    if order.kind == "canary":
        return f"still tries {short(serving)}" if serving else "does not try it yet"
    return f"still serves {short(serving)}" if serving else "serves nothing yet"


def _wrong_answer(client: httpx.Client, url: str, order: Order, requests: Golden) -> str | None:
    """What is wrong with its answers to the golden requests, in words.

    Each goes to the release by its version, and the first also to the model's plain path, where users are, if it is to
    be the champion. Raises _NotAsked when the endpoint lets this process ask nothing, _NotNow when it is full.
    """
    pinned, plain = f"/v2/models/{order.model}/versions/{short(order.digest)}/infer", f"/v2/models/{order.model}/infer"
    asked = [(pinned, index, case) for index, case in enumerate(requests.cases)]
    if order.kind == "champion":
        asked.append((plain, 0, requests.cases[0]))
    for path, index, case in asked:
        answer = client.post(url + path, json={"inputs": case.inputs})
        if answer.status_code in _NOBODY_WAS_ASKED:
            raise _NotAsked(denied(answer) or f"lets golden request {index + 1} not in: {_said(answer)}")
        if answer.status_code in _NOT_NOW:
            raise _NotNow(f"answers golden request {index + 1} with {answer.status_code}: {_said(answer)}")
        body: dict[str, Any] = answer.json()
        if answer.status_code != 200:
            return f"answers golden request {index + 1} at {path} with {answer.status_code}: {body.get('error')}"
        if answer.headers.get("nightshift-digest") != order.digest:
            return f"answers {path} as {answer.headers.get('nightshift-digest')}, not as {order.digest}"
        wrong = golden.difference(case.outputs, body["outputs"], requests.tolerance)
        if wrong:
            return f"disagrees with golden request {index + 1}: {wrong}"
    return None
