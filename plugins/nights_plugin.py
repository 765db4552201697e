"""The page "Nights" in Airflow: what each night came to, and what it waits for.

Read only. The nights are in S3, which this process does not speak: the engine reads them as a child, seldom enough
that a page that is reloaded costs little.
"""

import functools
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI

PLAIN = r"^[A-Za-z0-9][A-Za-z0-9._:+~@-]{0,249}$"  # a DAG, a run, a model, a data set; never an option, never a path
NAME = r"^\d{4}-\d{2}-\d{2}\.\d{1,9}$"
FRESH_S = 5  # for so long an answer of the engine is good
PATIENCE_S = 60
HEADERS = {
    # Styles and pictures that are in the page, links out of it, and nothing else: no script, nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# Worse kinds are red, those that wait for somebody amber, those in which something came of it green.
COLORS = dict.fromkeys(("failed", "refused", "barred", "fenced"), "bad")
COLORS |= dict.fromkeys(("held", "waiting", "late"), "waits")
COLORS |= dict.fromkeys(("promoted", "taken", "done"), "good")

_answers: dict[str, tuple[float, Any]] = {}
_one_at_a_time = threading.Lock()


class Unreadable(Exception):
    """The engine could not read the nights; its words."""


@functools.cache
def build() -> "FastAPI":
    """The page's application. Every process of Airflow imports this module, and only one of them has pages."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.core_api.security import requires_authenticated
    from fastapi import Depends, FastAPI, HTTPException, Request
    from fastapi import Path as Part
    from fastapi.responses import HTMLResponse
    from jinja2 import Environment, FileSystemLoader

    logged_in = [Depends(requires_authenticated())]
    pages = FastAPI(title="Nights", docs_url=None, redoc_url=None, openapi_url=None)
    templates = Environment(loader=FileSystemLoader(Path(__file__).with_name("nights")), autoescape=True)

    def page(template: str, status: int = 200, **shown: Any) -> HTMLResponse:
        return HTMLResponse(templates.get_template(template).render(colors=COLORS, **shown), status, HEADERS)

    @pages.get("/", dependencies=logged_in)
    def newest() -> HTMLResponse:
        return page("list.html", nights=ask())

    @pages.get("/{name}", dependencies=logged_in)
    def one(name: Annotated[str, Part(pattern=NAME)]) -> HTMLResponse:
        night = ask(name)
        if night is None:
            return page("problem.html", 404, title=f"There is no night {name}", text="It may have been removed by age.")
        return page("night.html", night=night)

    @pages.get("/report/{of}/{dag}/{run}/{name}", dependencies=logged_in)
    def report(
        of: Literal["decisions", "validations"],
        dag: Annotated[str, Part(pattern=PLAIN)],
        run: Annotated[str, Part(pattern=PLAIN)],
        name: Annotated[str, Part(pattern=PLAIN)],
    ) -> HTMLResponse:
        return HTMLResponse(engine("report", of, name, "--dag", dag, "--run", run), 200, HEADERS)

    @pages.exception_handler(Unreadable)
    def unreadable(_: Request, error: Unreadable) -> HTMLResponse:
        return page("problem.html", 503, title="The nights cannot be read", text=str(error))

    @pages.exception_handler(HTTPException)
    def not_allowed(request: Request, error: HTTPException) -> HTMLResponse:
        # Who comes by the link of a message and is not logged in finds the way.
        login = get_auth_manager().get_url_login(next_url=str(request.url)) if error.status_code == 401 else None
        return page("problem.html", error.status_code, title=str(error.detail), text="", login=login)

    return pages


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The application, built at its first request."""
    await build()(scope, receive, send)


def ask(name: str | None = None) -> Any:
    """What the engine knows of the nights, or of one.

    Raises:
        Unreadable: the engine failed; its last words.
    """
    key = name or ""
    with _one_at_a_time:
        at, answer = _answers.get(key, (0.0, None))
        if at and time.monotonic() - at < FRESH_S:
            return answer
        answer = json.loads(engine("nights", *([name] if name else [])))
        _answers.clear()
        _answers[key] = (time.monotonic(), answer)
        return answer


def engine(*arguments: str) -> str:
    """What a verb of the engine prints.

    Raises:
        Unreadable: it failed; its last words.
    """
    command = [sys.executable, "-m", "nightshift.engine", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unreadable(f"no answer within {PATIENCE_S} s") from None
    if done.returncode:
        raise Unreadable(re.sub(r"^error: ", "", done.stderr.strip())[-2000:])
    return done.stdout


class NightsPlugin(AirflowPlugin):
    """The page, and its place in the navigation."""

    name = "nights"
    fastapi_apps = [{"app": app, "url_prefix": "/nights", "name": "nights"}]  # noqa: RUF012 - Airflow's way
    # A page of its own and no `url_route`: Airflow would frame it, and the frame lets no link out to a run.
    external_views = [  # noqa: RUF012
        {"name": "Nights", "href": "/nights/", "destination": "nav", "nav_top_level": True}
    ]
