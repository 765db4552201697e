"""The judge of a canary: how seldom it is wrong although it looks all the time, and how soon it is right."""

import copy
from collections.abc import Sequence

import numpy as np

from nightshift.releases.canary import ALPHA, EDGES, Judge
from nightshift.releases.ledger import Canary

SAME = (0.5, 0.3, 0.2)


def judged(
    dice: np.random.Generator,
    looks: int = 40,
    errors: tuple[float, float] = (0.02, 0.02),
    times: float = 1.0,
    answers: Sequence[float] = SAME,
) -> Judge:
    """Traffic that comes and goes, of pictures that change, for a champion and a canary with a fifth of it."""
    judge = Judge(Canary(weight=0.2), classes=3)
    counts = {
        role: {"requests": 0, "errors": 0, "seconds": [0] * (len(EDGES) + 1), "answers": {}}
        for role in ("champion", "canary")
    }
    for look in range(looks):
        busy = 1 + look % 5 / 2
        canary = int(dice.binomial(int(60 * busy), 0.2))
        of_role = {"champion": int(60 * busy) - canary, "canary": canary}
        for role, requests in of_role.items():
            of, is_canary = counts[role], role == "canary"
            failed = int(dice.binomial(requests, errors[is_canary] * busy / 2))
            seconds = 0.001 * busy * (times if is_canary else 1) * np.exp(dice.normal(0, 0.3, requests - failed))
            buckets = np.bincount(np.searchsorted(EDGES, seconds), minlength=len(EDGES) + 1)
            of["requests"] += requests
            of["errors"] += failed
            of["seconds"] = [old + int(new) for old, new in zip(of["seconds"], buckets, strict=True)]
            for answer, new in enumerate(dice.multinomial(requests - failed, answers if is_canary else SAME)):
                of["answers"][str(answer)] = of["answers"].get(str(answer), 0) + int(new)
        judge.see("one process", copy.deepcopy(counts))
        if judge.fault():
            break
    return judge


def test_a_canary_like_its_champion_is_hardly_ever_refused_however_often_one_looks() -> None:
    dice = np.random.default_rng(0)
    rounds = 60
    refused = sum(bool(judged(dice, looks=25).fault()) for _ in range(rounds))
    assert refused <= 4 * ALPHA * rounds  # 0.6 are expected at most; more than 2 is one chance in fifty


def test_what_is_worse_is_named_while_few_have_met_it() -> None:
    dice = np.random.default_rng(1)
    failing = judged(dice, errors=(0.0, 0.5))
    assert failing.fault().startswith("it fails more often than the champion")
    assert failing.requests["canary"] < 200
    slow = judged(dice, times=4.0)
    assert slow.fault().startswith("it takes more than 2 times as long")
    assert slow.requests["canary"] < 500
    collapsed = judged(dice, answers=(0.0, 0.0, 1.0))
    assert collapsed.fault().startswith("it answers ")
    assert collapsed.requests["canary"] < 500


def test_what_is_allowed_is_no_fault() -> None:
    dice = np.random.default_rng(2)
    assert judged(dice, times=1.8).fault() == ""
    assert judged(dice, errors=(0.05, 0.0)).fault() == ""
    assert judged(dice, answers=(0.4, 0.3, 0.3)).fault() == ""


def test_a_process_that_begins_again_is_counted_as_another() -> None:
    judge = Judge(Canary(weight=0.5, requests=10))
    once = {role: {"requests": 5, "errors": 0, "seconds": [5] + [0] * len(EDGES), "answers": {}}
            for role in ("champion", "canary")}  # fmt: skip
    judge.see("pid 1", once)
    judge.see("pid 1", once)
    assert judge.requests == {"champion": 5, "canary": 5}
    assert not judge.enough()
    judge.see("pid 2", once)
    assert judge.enough()
    fewer = {role: {**counts, "requests": 2, "seconds": [2] + [0] * len(EDGES)} for role, counts in once.items()}
    judge.see("pid 1", fewer)  # the same number, in a container
    assert judge.requests == {"champion": 12, "canary": 12}
