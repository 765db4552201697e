"""Great Expectations over the profile of every record: ``python -m pipelines.validate DATASET``

The verdict is an output, never an exit status: a snapshot that is refused has its report, and DVC does not repeat it.
Nothing here holds a time, an id or a path, so the same profiles give the same bytes.
"""

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from pipelines.params.section import ParamsError, at, read
from pipelines.params.toolchain import demand
from pipelines.reports.page import render
from pipelines.reports.validation import content, lost

SAMPLE = 20  # failed records that are named; all of them are counted


class ValidateError(Exception):
    """The snapshot could not be judged; the message says why and what to do."""


def validate(dataset: str, root: Path = Path()) -> dict[str, Any]:
    """Writes ``artifacts/validations/<dataset>`` and returns its ``verdict.json``.

    ``verdict`` is ``pass``, ``warn`` or ``refuse``; ``failed`` names each failed expectation with its days.

    Raises:
        ParamsError, ValidateError: no verdict was reached.
    """
    file = root / "params.yaml"
    reader = at(read(file), "datasets", dataset, "reader", file=file)
    sections = importlib.import_module(f"pipelines.datasets.{reader}_params")
    demands = sections.Validate.load("datasets", dataset, "validate", file=file)
    records = sections.Records.load("datasets", dataset, "records", file=file)
    profiles = sorted((root / "data" / "profiles" / dataset).glob("date=*.parquet"))
    if not profiles:
        return _write(root, dataset, _empty(dataset), {}, {}, _profile({}, {}), "date,rows,quarantined,shift\n")
    suite = importlib.import_module(f"pipelines.datasets.{reader}_suite")
    index = json.loads((root / "data" / "profiles" / dataset / "index.json").read_text())["partitions"]
    quarantined = {day: lost(entry) for day, entry in index.items()}
    try:
        found = suite.frames(profiles, quarantined, records, demands)
    except ValueError as error:
        raise ValidateError(f"{dataset}: {error}") from None
    days = found.days
    frames, ids = {"records": found.records, "days": days}, {"records": ["date", "source", "key"], "days": ["date"]}
    results = _run(
        dataset, {name: (frames[name], ids[name], some) for name, some in suite.suites(records, demands).items()}
    )
    failed = [
        _failure(name, result, found.shares)
        for name, answers in results.items()
        for result in answers
        if not result["success"]
    ]
    accepted = {day: entry["accepted"] for day, entry in index.items() if "accepted" in entry}
    for failure in failed:
        _let_in(failure, accepted)
    failed.sort(key=lambda failure: ("critical", "warning", "info").index(failure["severity"]))
    severities = {failure["severity"] for failure in failed}
    verdict = {
        "verdict": "refuse" if "critical" in severities else "warn" if "warning" in severities else "pass",
        "rows": int(days["rows"].sum()),
        "days": len(days),
        "train": int(days["train"].sum()),
        "test": int(days["test"].sum()),
        "quarantined": sum(quarantined.values()),
        "repeated": int(days["repeated"].sum()),
        "failed": [
            {key: failure[key] for key in ("expectation", "severity", "days", "message")}
            for failure in failed
            if failure["severity"] != "info"
        ],
    }
    page = content(
        verdict, failed, days, results["days"], found.distributions, index, root / "data" / "profiles" / dataset
    )
    others = {failure["column"] for failure in failed if failure["suite"] == "days"} - suite.COLUMNS.keys()
    columns = suite.COLUMNS | {column: column.replace("_", " ") for column in sorted(others)}
    shown = {"columns": columns, "shares": found.shares, **page}
    plot = days.assign(shift=days.filter(regex="shift$").max(axis=1))[["date", "rows", "quarantined", "shift"]]
    profile = _profile(found.distributions, accepted)
    return _write(root, dataset, verdict, results, shown, profile, plot.to_csv(index=False))


def _profile(distributions: dict[str, Any], accepted: dict[str, str]) -> dict[str, Any]:
    """What the training rows of each day look like, for whom a model must be judged by what it was trained on."""
    return {
        "accepted": accepted,
        "distributions": {
            name: {
                "bins": counts.columns.tolist(),
                "days": {day: row.tolist() for day, row in zip(counts.index, counts.to_numpy(), strict=True)},
            }
            for name, counts in distributions.items()
        },
    }


def _empty(dataset: str) -> dict[str, Any]:
    message = (
        f"data/{dataset} is empty: type `make night`, or `nightshift land {dataset}` and `nightshift ingest {dataset}`"
    )
    failed = {"expectation": "The snapshot has a day", "severity": "critical", "days": [], "message": message}
    numbers = dict.fromkeys(("rows", "days", "train", "test", "quarantined", "repeated"), 0)
    return {"verdict": "refuse", **numbers, "failed": [failed]}


def _run(dataset: str, suites: dict[str, tuple[Any, list[str], list[Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Great Expectations' results by suite, without what differs between two runs; its own pages beside, if asked."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    home = os.environ.get("NIGHTSHIFT_HOME")
    with tempfile.TemporaryDirectory() as scratch:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        actions: list[gx.checkpoint.actions.ValidationAction] = []
        if home:
            site = {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": scratch},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            }
            context.add_data_docs_site(site_name="nightshift", site_config=cast("Any", site))
            actions.append(gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["nightshift"]))
        source = context.data_sources.add_pandas(dataset)
        found = {}
        for name, (frame, ids, expectations) in suites.items():
            batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
            suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
            definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
            checkpoint = gx.Checkpoint(
                name=name,
                validation_definitions=[definition],
                actions=actions,
                result_format={
                    "result_format": "COMPLETE",
                    "unexpected_index_column_names": ids,
                    "include_unexpected_rows": False,
                },
            )
            run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
            (result,) = run.run_results.values()
            found[name] = [_without_ids(item) for item in result.to_json_dict()["results"]]
        if home:
            target = Path(home, "datadocs", dataset)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(scratch, target)
    return {name: sorted(results, key=lambda r: (r["column"], r["type"])) for name, results in found.items()}


def _without_ids(item: dict[str, Any]) -> dict[str, Any]:
    config = item["expectation_config"]
    raised = [info["exception_message"] for info in item["exception_info"].values() if isinstance(info, dict)]
    if raised or item["exception_info"].get("raised_exception"):
        # That is an error of ours, not bad data: no verdict can rest on it.
        raise ValidateError(
            f"{config['type']} on {config['kwargs'].get('column')} raised: {raised or item['exception_info']}"
        )
    result = {key: value for key, value in item["result"].items() if not key.startswith(("unexpected_", "partial_"))}
    places = item["result"].get("unexpected_index_list") or []
    return {
        "type": config["type"],
        "column": config["kwargs"]["column"],
        "severity": config["severity"],
        "description": config["description"],
        "bounds": {k: v for k, v in config["kwargs"].items() if k not in ("column", "batch_id")},
        "success": item["success"],
        "result": result | {"unexpected_count": item["result"].get("unexpected_count", 0)},
        "places": places,
    }


def _failure(suite: str, result: dict[str, Any], shares: set[str]) -> dict[str, Any]:
    """A failed expectation in words, with its days and records."""
    column, places = result["column"], result["places"]
    days = sorted({place["date"] for place in places})

    def said(value: Any) -> str:
        if suite == "days" and column in shares:
            return f"{value:.2%}"
        return f"{value:g}" if isinstance(value, float) else str(value)

    if suite == "days":
        seen = [f"{place['date']} has {said(place[column])}" for place in places]
    else:
        seen = [f"{len(places):,} record(s) of {', '.join(days[:3])}{' …' if len(days) > 3 else ''}"]
    where = f"{', '.join(seen[:5])}{' …' if len(seen) > 5 else ''}"
    return {
        "suite": suite,
        "expectation": result["description"],
        "severity": result["severity"],
        "days": days,
        "where": where,
        "message": f"{result['description']}: {where}",
        "column": column,
        "bounds": result["bounds"],
        "places": places,
    }


def _let_in(failure: dict[str, Any], accepted: dict[str, str]) -> None:
    """What only speaks against days that a person let in is a warning."""
    days = failure["days"]
    if failure["severity"] == "critical" and days and all(day in accepted for day in days):
        failure["severity"] = "warning"
        reason = f" ({'; '.join(sorted({accepted[day] for day in days}))})"
        failure["message"] += reason
        failure["where"] += reason


def _write(
    root: Path,
    dataset: str,
    verdict: dict[str, Any],
    results: dict[str, Any],
    shown: dict[str, Any],
    profile: dict[str, Any],
    plot: str,
) -> dict[str, Any]:
    """The outputs, the verdict last."""
    folder = root / "artifacts" / "validations" / dataset
    try:
        shutil.rmtree(folder / "details", ignore_errors=True)
        (folder / "details").mkdir(parents=True)
        for name, found in results.items():
            short = [{**result, "places": result["places"][:SAMPLE]} for result in found]
            (folder / "details" / f"{name}.json").write_text(_json(short))
        (folder / "details" / "failed.json").write_text(_json(verdict["failed"]))
        (folder / "profile.json").write_text(json.dumps(profile, ensure_ascii=False) + "\n")
        (folder / "days.csv").write_text(plot)
        (folder / "report.html").write_text(render("validate.html", dataset=dataset, verdict=verdict, **shown))
        (folder / "verdict.json").write_text(_json(verdict))
    except OSError as error:
        raise ValidateError(
            f"{folder} cannot be written ({error.strerror or error}): free some space, run again"
        ) from None
    return verdict


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def main(argv: list[str] | None = None) -> int:
    """0 with any verdict, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.validate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset")
    dataset = parser.parse_args(argv).dataset
    try:
        demand("great-expectations")
        verdict = validate(dataset)
    except (ParamsError, ValidateError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ParamsError) else 1
    print(f"{dataset}: {verdict['verdict']}, {verdict['rows']:,} rows of {verdict['days']} day(s)")
    for failure in verdict["failed"]:
        print(f"  {failure['severity']}: {failure['message']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
