"""The pages in a real browser, on a real endpoint process: what a person drops, types and reads."""

import io
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from nightshift.releases.store import FolderStore
from nightshift.serving.keys import Keys
from tests.releases import kinds
from tests.serving.world import Endpoint, World, serving, wait_for

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed (apt-get install chromium)")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
HOSTILE = '<script>document.title="taken"</script>'
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    world = World(tmp_path_factory.mktemp("pages"))
    made = {
        "toy": world.publish(),
        "price": published(world, kinds.row_release, "price"),
        "mood": published(world, kinds.text_release, "mood"),
        "choice": published(world, kinds.packed_release, "choice", labels=(HOSTILE, "wait", "sell")),
        "sum": published(world, kinds.tensor_release, "sum"),
    }
    with serving(world, made) as endpoint:
        yield endpoint


def published(world: World, make, name: str, **settings: object) -> str:
    make(world.folder / name, model=name, **settings)
    return world.registry.publish(world.folder / name)


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(params=["wide and light", "phone and dark"])
def page(request: pytest.FixtureRequest, browser, endpoint: Endpoint) -> Iterator["sync_api.Page"]:
    """A page in which nothing was logged, thrown, blocked or asked of another host."""
    phone = request.param == "phone and dark"
    context = browser.new_context(
        base_url=endpoint.url,
        viewport={"width": 360, "height": 740} if phone else {"width": 1200, "height": 800},
        color_scheme="dark" if phone else "light",
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if "status of 4" not in message.text else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda asked: problems.append(asked.url) if not asked.url.startswith((endpoint.url, "blob:")) else None,
    )
    yield page
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    context.close()
    assert problems == []
    assert overflow == 0


def png(width: int = 40, height: int = 30) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


def test_the_first_page_lists_the_models_with_what_serves(page, endpoint: Endpoint) -> None:
    page.goto("/")
    page.get_by_role("heading", name="toy").wait_for()
    assert page.locator(".models > li").count() == 5
    toy = page.locator(".models > li", has=page.get_by_role("heading", name="toy"))
    assert toy.locator("code").inner_text() == endpoint.of("toy")["serving"][:12]
    assert "Takes an image (4 × 4, color), answers with one of 3 labels." in toy.inner_text()
    toy.get_by_text("Metadata").click()
    toy.locator("pre", has_text='"datatype": "UINT8"').wait_for()
    toy.get_by_role("link", name="Try it").click()
    page.get_by_text("Drop an image here").wait_for()
    assert page.url == f"{endpoint.url}/playground/toy"


def test_a_chosen_image_is_shown_and_answered_with_bars_release_and_latency(page, endpoint: Endpoint) -> None:
    page.goto("/playground/toy")
    page.get_by_label("Image file").set_input_files({"name": "red.png", "mimeType": "image/png", "buffer": png()})
    page.locator(".best").wait_for()
    answer = page.get_by_role("region", name="Answer")
    direct = endpoint.client.post("/v1/models/toy:predict", content=png()).json()
    best = direct["predictions"][0]["labels"][0]
    assert answer.locator(".best").inner_text().split("\n") == [
        best["label"],
        f"{best['probability']:.1%}".replace("%", " %"),
    ]
    assert answer.locator(".bars li").count() == 3
    width = answer.locator(".bars li").first.locator(".fill").evaluate("element => element.style.width")
    assert float(width.rstrip("%")) == pytest.approx(100 * best["probability"], abs=0.1)
    said = answer.inner_text()
    assert "resized from 40 × 30 to 4 × 4" in said
    assert "champion" in said
    assert direct["version"] in said
    assert re.search(r"[\d.]+ ms in the endpoint", said)
    assert page.locator(".drop img").evaluate("image => image.naturalWidth") == 40
    page.get_by_label("Image file").set_input_files({"name": "not one.png", "mimeType": "image/png", "buffer": b"x"})
    page.get_by_role("alert").get_by_text("not one.png cannot be read").or_(page.get_by_role("alert")).first.wait_for()
    assert "cannot be read as an image" in page.get_by_role("alert").inner_text()
    page.locator(".history button").click()  # the answer before comes back
    assert answer.locator(".best").inner_text().startswith(best["label"])


def test_an_image_can_be_dropped(page) -> None:
    page.goto("/playground/toy")
    page.locator(".drop").wait_for()
    transfer = page.evaluate_handle(
        """bytes => { const all = new DataTransfer();
        all.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" })); return all; }""",
        list(png()),
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
    page.locator(".best").wait_for()
    assert "dropped.png" in page.locator(".history").inner_text()


def test_a_text_is_asked_about_by_keyboard_alone(page) -> None:
    page.goto("/playground/mood")
    field = page.get_by_label("Text")
    field.focus()
    page.keyboard.type("a lovely day")
    page.keyboard.press("Control+Enter")
    page.locator(".best").wait_for()
    assert page.locator(".best").inner_text().split("\n") == ["good", "95.3 %"]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Ask"


def test_a_row_is_filled_in_and_a_number_without_labels_is_shown(page) -> None:
    page.goto("/playground/price")
    page.get_by_label("rooms").fill("12")
    page.get_by_label("area").fill("40.5")
    page.get_by_label("color").select_option("red")
    page.get_by_role("button", name="Ask").click()
    page.locator(".values").wait_for()
    assert page.locator(".values").inner_text().split("\n") == ["price", "1,608"]
    assert "the greatest that training saw is 9" in page.locator(".notes").inner_text()


def test_a_model_of_tensors_is_asked_in_the_protocols_words(page) -> None:
    page.goto("/playground/sum")
    page.get_by_role("button", name="Ask").click()
    page.locator(".answer pre").wait_for()
    assert '"data": [0, 0]' in page.locator(".answer pre").inner_text()


def test_what_looks_like_markup_in_data_stays_text(page) -> None:
    page.goto("/playground/choice")
    page.get_by_label("area").fill("1")
    page.get_by_label("rooms").fill("90")
    page.get_by_role("button", name="Ask").click()
    page.locator(".best").wait_for()
    assert page.locator(".best strong").inner_text() == HOSTILE
    assert page.locator("main script").count() == 0
    assert page.title() == "choice · Nightshift"
    page.goto("/playground/<img src=x onerror=alert(1)>")
    page.get_by_text("There is no model <img src=x onerror=alert(1)> here.").wait_for()
    assert page.title() == "Playground · Nightshift"


def test_the_api_page_shows_every_path_and_lines_that_work(page, endpoint: Endpoint) -> None:
    page.goto("/docs#mood")
    page.locator(".operation").first.wait_for()
    api = endpoint.client.get("/openapi.json").json()
    shown = set(page.locator(".operation > summary code").all_inner_texts())
    assert shown == {path for path in api["paths"] if "{" not in path}
    operation = page.locator(".operation", has=page.get_by_text("/v1/models/mood:predict", exact=True))
    operation.locator("summary").first.click()
    line = operation.locator(".sample pre").first.inner_text()
    assert line.startswith(f"curl -s '{endpoint.url}/v1/models/mood:predict'")
    words = shlex.split(line)
    answer = httpx.post(words[2], content=words[-1], headers={"content-type": "application/json"})
    assert answer.json()["predictions"][0]["label"] in kinds.MOODS


def test_the_page_headers_let_nothing_else_run(endpoint: Endpoint) -> None:
    for path in ("/", "/docs", "/playground/toy", "/pages/app.js", "/pages/style.css"):
        headers = endpoint.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    html = endpoint.client.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|<style|https?://", html)
    assert endpoint.client.get("/pages/..%2Fsite.py").status_code == 404
    assert endpoint.client.get("/pages/nothing.js").status_code == 404


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Endpoint, str]]:
    """An endpoint that asks for a key, and the key."""
    world = World(tmp_path)
    made = world.publish()
    world.order(made, "proven")
    key, _ = Keys(FolderStore(world.folder / "registry-keys")).create("browser", by="a test", scopes=("predict:toy",))
    endpoint = world.endpoint().start()
    endpoint.wait_serving(made)
    wait_for(lambda: httpx.get(f"{endpoint.url}/v1/models").status_code == 401, 60)
    yield endpoint, key
    endpoint.stop()
    endpoint.client.close()


def test_a_key_is_asked_for_sent_in_headers_only_and_forgotten(browser, locked: tuple[Endpoint, str]) -> None:
    endpoint, key = locked
    context = browser.new_context(base_url=endpoint.url)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/playground/toy")
    page.get_by_role("alert").get_by_text("A key is needed").wait_for()
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("nsk_wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("not known here").wait_for()
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    page.get_by_label("Image file").set_input_files({"name": "red.png", "mimeType": "image/png", "buffer": png()})
    page.locator(".best").wait_for()
    page.get_by_role("link", name="API", exact=True).click()
    page.locator(".operation").first.wait_for()  # going on keeps the key
    assert '-H "X-API-Key: $NIGHTSHIFT_API_KEY"' in page.locator(".sample pre").all_text_contents()[-1]
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("heading", name="toy").wait_for()
    assert not [url for url in asked if key in url]
    stores = "[localStorage.length, sessionStorage.length, document.cookie.length, location.href]"
    assert page.evaluate(stores) == [0, 0, 0, f"{endpoint.url}/"]
    assert key not in page.evaluate("document.documentElement.outerHTML")
    page.reload()
    page.get_by_role("alert").get_by_text("A key is needed").wait_for()
    context.close()
