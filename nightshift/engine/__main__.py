"""``python -m nightshift.engine VERB …``: one task of a night, or the graph."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from nightshift.engine.report import Receipt
from nightshift.errors import NightshiftError
from nightshift.releases.errors import ReleaseError

# A task waits for an S3 server that is away for a minute or two; boto3 and DVC read these.
PATIENCE = {"AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "32"}
RUN_VERBS = {
    "begin": None,
    "ingest": "dataset",
    "accept": "dataset",
    "pin": "model",
    "stage": "name",
    "record": None,
    "approval": "model",
    "deploy": "model",
    "tell": None,
    "housekeeping": None,
}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong use, 3 held or refused by a rule."""
    signal.signal(signal.SIGTERM, _terminated)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    args = _parser().parse_args(arguments)
    try:
        receipt = _dispatch(args)
    except (NightshiftError, ReleaseError) as error:
        sys.stderr.write(f"error: {error}\n")
        outcome = getattr(error, "outcome", "failed")
        _write(args, Receipt(outcome, error.message, {"next_step": error.next_step}))
        return error.exit_code
    except Exception as error:
        _write(args, Receipt("failed", f"{type(error).__name__}: {error}"))
        raise  # a bug of ours: it shows all
    if receipt is not None:
        sys.stdout.write(f"{receipt.outcome}: {receipt.message}\n")
        _write(args, receipt)
        return receipt.exit_code
    return 0


def _dispatch(args: argparse.Namespace) -> Receipt | None:
    """Each verb imports its own module: an unchanged stage should not pay for the others."""
    if args.verb == "graph":
        _graph(args.rev, args.root)
        return None
    if args.verb == "begin":
        from nightshift.engine.begin import begin

        return begin(args.dag, args.run, args.conf, args.events, args.until, args.about)
    if args.verb == "stage":
        from nightshift.engine.stage import stage

        return stage(args.name, args.dag, args.run, args.attempt)
    if args.verb == "ingest":
        from nightshift.engine.ingest import ingest

        return ingest(args.dataset, args.dag, args.run)
    if args.verb == "accept":
        from nightshift.engine.accept import accept

        return accept(args.dataset, args.dag, args.run)
    if args.verb == "pin":
        from nightshift.engine.pin import pin

        return pin(args.model, args.dag, args.run)
    if args.verb == "approval":
        from nightshift.engine import approval

        if args.answer is None:
            return approval.ask(args.model, args.dag, args.run)
        return approval.answer(args.model, args.dag, args.run, json.loads(args.answer))
    if args.verb == "report":
        from nightshift.engine.judged import report

        sys.stdout.write(report(args.of, args.name, args.dag, args.run))
        return None
    if args.verb == "deploy":
        from nightshift.engine.deploy import deploy

        return deploy(args.model, args.dag, args.run)
    if args.verb == "housekeeping":
        from nightshift.engine.housekeeping import housekeeping

        return housekeeping(daily=True)
    if args.verb == "rollback":
        from nightshift.engine.rollback import rollback

        return rollback(args.model, args.to, args.reason, args.who, args.run)
    if args.verb in ("tell", "unfinished", "late", "sent", "nights"):
        return _night(args)
    from nightshift.engine.record import record

    return record(args.dag, args.run)


def _night(args: argparse.Namespace) -> Receipt | None:
    from nightshift.engine import tell

    if args.verb == "tell":
        about, events, tasks = (json.loads(text) for text in (args.about, args.events, args.tasks))
        return tell.tell(args.dag, args.run, about, events, tasks)
    if args.verb == "unfinished":
        return tell.unfinished()
    if args.verb == "late":
        return tell.late(json.loads(args.found), json.loads(args.about))
    if args.verb == "sent":
        return tell.sent(args.name, args.how, args.said)
    json.dump(tell.shown(args.name), sys.stdout, indent=1)
    return None


def _graph(rev: str | None, root: str | None) -> None:
    if rev is None:
        from nightshift.engine import dvc_index

        found = dvc_index.read(Path(root or ".").absolute())
    else:
        from nightshift.engine import graph

        found = graph.of_revision(rev)
    json.dump(found, sys.stdout, indent=1)


def _write(args: argparse.Namespace, receipt: Receipt) -> None:
    if getattr(args, "receipt", None):
        receipt.write(args.receipt)


def _terminated(number: int, _: FrameType | None) -> None:
    # An exception, so that what runs is killed and the workspace removed on the way out.
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nightshift.engine", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    graph = verbs.add_parser("graph", help="DVC's resolved graph as JSON")
    graph.add_argument("--rev", help="of this revision of NIGHTSHIFT_REPO")
    graph.add_argument("--root", help="of the project in this folder (default: the current one)")
    for verb, argument in RUN_VERBS.items():
        command = verbs.add_parser(verb)
        if argument:
            command.add_argument(argument)
        command.add_argument("--dag", required=True)
        command.add_argument("--run", required=True)
        command.add_argument("--receipt", type=Path)
        if verb == "begin":
            command.add_argument("--conf")
            command.add_argument("--events")
            command.add_argument("--until")
        if verb in ("begin", "tell"):
            command.add_argument("--about", help="what Airflow knows of the night: date, after, queues, paused, url")
        if verb == "tell":
            command.add_argument("--events", default="[]")
            command.add_argument("--tasks", required=True)
        if verb == "approval":
            command.add_argument("--answer", help="a person's, as JSON: approved, who, reason, digest")
        if verb == "stage":
            command.add_argument("--attempt", type=int, default=1)
    shown = verbs.add_parser("nights", help="the newest nights, or one, as JSON")
    shown.add_argument("name", nargs="?")
    report = verbs.add_parser("report", help="the page of a run's decision on a model, or of a validation, as HTML")
    report.add_argument("of", choices=["decisions", "validations"])
    report.add_argument("name", help="of the model, or of the data set")
    report.add_argument("--dag", required=True)
    report.add_argument("--run", required=True)
    sent = verbs.add_parser("sent")
    sent.add_argument("name")
    sent.add_argument("--how", required=True)
    sent.add_argument("--said", default="")
    late = verbs.add_parser("late")
    late.add_argument("--found", required=True)
    late.add_argument("--about", required=True)
    back = verbs.add_parser("rollback", help="a person's, from a form")
    back.add_argument("model")
    back.add_argument("--to", help="a digest, or its first characters; without it, the champion before")
    for option in ("--reason", "--who", "--run"):
        back.add_argument(option, required=True)
    for command in (verbs.add_parser("unfinished"), late, sent, back):
        command.add_argument("--receipt", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
