"""The page about the nights: who may read it, and what it makes of what the engine says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nightshift.engine.journal import Journal
from nightshift.engine.key import md5
from nightshift.engine.night import Night
from nightshift.releases.store import FolderStore

ROOT = Path(__file__).parents[2]
NAME = "2026-01-02.1"
EVIL = "<script>alert('mnist')</script>"
# In a process of its own, because Airflow's api-server is as much as a second of imports and settings of its own.
ASK = """
import json, logging, sys
logging.disable()
from airflow.api_fastapi.app import init_auth_manager
from airflow.api_fastapi.core_api.security import get_user
from starlette.testclient import TestClient
import nights_plugin
init_auth_manager()
page = nights_plugin.build()
client = TestClient(page)
REPORT = "/report/decisions/train_m1/manual__1%2B00:00/m1"
VALIDATION = "/report/validations/ingest_a/manual__1%2B00:00/a"
routes = [route.path.replace("/report/{of}/{dag}/{run}/{name}", REPORT).replace("{name}", "2026-01-02.1")
          for route in page.routes]
found = {"routes": routes, "anonymous": {path: client.get(path).status_code for path in routes},
         "login": client.get("/2026-01-02.1").text}
page.dependency_overrides[get_user] = lambda: object()
for path in ("/", "/2026-01-02.1", "/2026-01-02.7", "/..%2Fnotes", "/2026-01-02.1x",
             REPORT, VALIDATION, "/report/decisions/train_m1/manual__2/m1", "/report/decisions/--help/manual__1/m1",
             "/report/secrets/train_m1/manual__1%2B00:00/m1"):
    answer = client.get(path)
    found[path] = {"status": answer.status_code, "text": answer.text, "headers": dict(answer.headers)}
nights_plugin.FRESH_S = 0
import os
os.environ["NIGHTSHIFT_WORK"] = ""
answer = client.get("/")
found["unreadable"] = {"status": answer.status_code, "text": answer.text}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page answers with two nights in the store: one told, one going on."""
    folder = tmp_path_factory.mktemp("page")
    told, on = Night(FolderStore(folder / "work"), NAME), Night(FolderStore(folder / "work"), "2026-01-03.1")
    for night in (told, on):
        night.put("night", {"key": "manual__1", "roots": ["ingest_a"], "began": "2026-01-02T03:00:00+00:00"})
        after = {"ingest_a": [], "train_m1": ["ingest_a"]}
        night.put("runs/ingest_a", {"run": "manual__1+00:00", "after": after, "queues": {}})
    part = {"about": "data set", "name": "a", "kind": "held", "why": f"{EVIL}: too dark", "next": "replace the files"}
    part |= {"report": "validations", "cost": "9 s of computing"}
    ended = {"dag": "ingest_a", "run": "manual__1+00:00", "ended": "2026-01-02T03:05:00+00:00"}
    told.put("outcomes/ingest_a", ended | {"asset": False, "red": True, "parts": [part]})
    message = {"subject": f"nightshift {NAME}: a held", "body": f"why {EVIL}", "kind": "held", "wanted": True}
    told.put("told", message | {"by": "ingest_a/manual__1", "at": "2026-01-02T03:05:00+00:00"})
    told.put("sent", {"how": "failed", "said": "Connection error", "heartbeat": "called"})
    remote = FolderStore(folder / "work" / "dvc")
    made: dict[str, list[dict[str, str]]] = {"ingest_a": [], "train_m1": []}
    for dag, path, content in (
        ("train_m1", "artifacts/decisions/m1/report.html", f"<!doctype html><p>{EVIL.replace('<', '&lt;')}".encode()),
        ("ingest_a", "artifacts/validations/a/report.html", b"<!doctype html><p>too dark"),
    ):
        remote.put(f"files/md5/{md5(content)[:2]}/{md5(content)[2:]}", content)
        made[dag].append({"path": path, "md5": md5(content)})
    for dag, outs in made.items():
        run = Journal(FolderStore(folder / "work"), dag, "manual__1+00:00")
        run.put("base.json", {"format": 1, "dag": dag, "run": "manual__1+00:00", "remote": remote.url})
        run.put("stages/last.json", {"entry": {"outs": outs}})
    env = os.environ | {
        "NIGHTSHIFT_HOME": str(folder / "home"),
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "NIGHTSHIFT_WORK": str(folder / "work"),
        "PYTHONPATH": str(ROOT / "plugins"),
    }
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_no_route_answers_who_is_not_logged_in(answers):
    assert len(answers["routes"]) == 3
    assert set(answers["anonymous"].values()) == {401}
    assert "/auth/login" in answers["login"]


def test_the_list_names_each_night_and_what_it_came_to(answers):
    text = answers["/"]["text"]
    assert text.index("2026-01-03.1") < text.index(NAME)  # newest first
    assert "going on" in text
    assert "a held" in text


def test_a_night_says_why_what_to_do_and_that_the_message_is_not_out(answers):
    text = answers[f"/{NAME}"]["text"]
    said = ("too dark", "9 s of computing", "replace the files", "not sent: Connection error", "called")
    for words in ("data set a", "held", *said):
        assert words in text
    assert 'href="/dags/ingest_a/runs/manual__1%2B00%3A00"' in text


def test_what_comes_from_data_is_text_and_no_script_may_run(answers):
    for path in ("/", f"/{NAME}"):
        page = answers[path]
        assert "<script" not in page["text"]
        assert "&lt;script&gt;" in page["text"]
        policy = page["headers"]["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy


def test_the_report_of_a_decision_opens_and_may_run_nothing(answers):
    page = answers["/report/decisions/train_m1/manual__1%2B00:00/m1"]
    assert page["status"] == 200
    assert "&lt;script>" in page["text"]
    assert "default-src 'none'" in page["headers"]["content-security-policy"]
    assert answers["/report/decisions/train_m1/manual__2/m1"]["status"] == 503
    assert "manual__2" in answers["/report/decisions/train_m1/manual__2/m1"]["text"]
    assert answers["/report/decisions/--help/manual__1/m1"]["status"] == 422
    assert answers["/report/secrets/train_m1/manual__1%2B00:00/m1"]["status"] == 422


def test_the_report_of_a_validation_is_a_link_away_and_may_show_its_pictures(answers):
    link = "/report/validations/ingest_a/manual__1%2B00:00/a"
    assert f'href="/nights{link.replace("00:00", "00%3A00")}"' in answers[f"/{NAME}"]["text"]
    page = answers[link]
    assert (page["status"], page["text"]) == (200, "<!doctype html><p>too dark")
    assert "img-src data:;" in page["headers"]["content-security-policy"]


def test_a_name_that_is_none_reaches_no_process(answers):
    assert answers["/2026-01-02.7"]["status"] == 404
    assert answers["/..%2Fnotes"]["status"] in (404, 422)
    assert answers["/2026-01-02.1x"]["status"] == 422


def test_when_the_nights_cannot_be_read_the_page_says_why(answers):
    assert answers["unreadable"]["status"] == 503
    assert "NIGHTSHIFT_WORK is not set" in answers["unreadable"]["text"]
