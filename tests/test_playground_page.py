"""The playground in a browser: what is drawn comes out, whatever else is asked of the page."""

import math
import shutil
from importlib.resources import files
from itertools import pairwise

import browser
import playground
import pytest
import torch
from conftest import ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: no test extra")
CHROMIUM = browser.find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (apt install chromium)")
PAGE = """<!doctype html>
<html lang="en" data-theme="light"><head><title>A playground</title>
<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="book.css">
<style>html { --pst-color-text-base: #222; --pst-color-text-muted: #555; color: #222; }
html[data-theme="dark"] { --pst-color-background: #111; --pst-color-text-base: #eee;
  --pst-color-text-muted: #aaa; background: #111; color: #eee; }</style></head>
<body><main><h1>A playground</h1><div class="playground {name}">
<script src="playground/ready.js"></script>
<script type="module" src="playground/{name}.js"
  onerror="this.parentElement.classList.remove('live')"></script>
<figure><img src="favicon.svg" alt="A still picture" width="300"></figure>
</div></main></body></html>"""
BINS = 8  # of a histogram along each axis
STROKE = [(0.25, 0.3), (0.45, 0.3), (0.7, 0.45), (0.72, 0.8)]  # corners, as shares of the square


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "assets"
    shutil.copytree(ROOT / "book" / "assets", folder)
    playground.write_data(folder / "playground")
    for name in ("torus", "estimator"):
        (folder / f"{name}.html").write_text(PAGE.replace("{name}", name))
    with browser.served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(site, chromium):
    """A function that opens the page and waits for its first fit; errors fail the test."""
    contexts, errors = [], []

    def open_page(width=1400, scheme="light", live=True, script="", name="torus", **options):
        options = {"reduced_motion": "reduce", "color_scheme": scheme} | options
        context = chromium.new_context(viewport={"width": width, "height": 850}, **options)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(script)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(f"{site}/{name}.html")
        if live and name == "torus":
            settled(page)
        if live:
            page.evaluate("scheme => document.documentElement.dataset.theme = scheme", scheme)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def settled(page, fitted=True):
    """Wait until the worker has answered all that it was asked, particles too where ``fitted``."""
    page.wait_for_function(
        "fitted => { const p = document.querySelector('.playground').playground;"
        " return p && p.message.textContent && !p.busy && !p.dirty && !p.drawing"
        " && (!fitted || p.paths); }",
        arg=fitted,
    )


def draw(page, touch=False):
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("canvas.board").bounding_box()
    at = [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in STROKE]
    if not touch:
        page.mouse.move(*at[0])
        page.mouse.down()
        for place in at[1:]:
            page.mouse.move(*place, steps=12)
        page.mouse.up()
        return
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [xy(at[0])]})
    for left, right in pairwise(at):
        for share in (0.25, 0.5, 0.75, 1):
            place = [a + share * (b - a) for a, b in zip(left, right, strict=True)]
            moved = {"type": "touchMove", "touchPoints": [xy(place)]}
            session.send("Input.dispatchTouchEvent", moved)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def xy(place):
    return {"x": place[0], "y": place[1]}


def state(page):
    """Points ``(N, 2)``, particles at the first and the last level, and how the fit shrank."""
    found = page.evaluate(
        "() => { const p = document.querySelector('.playground').playground; return {"
        " points: [...p.points], paths: [p.paths[0], p.paths.at(-1)].map(x => [...x]),"
        " made: p.made}; }"
    )
    first, last = (torch.tensor(x).reshape(-1, 2).double() for x in found["paths"])
    return torch.tensor(found["points"]).reshape(-1, 2).double(), first, last, found["made"]


def expected_shares(points, time, mix):
    """Share of each cell under ``mix`` times the data after Brownian motion on the torus up to
    ``time``, the rest uniform: ``(BINS, BINS)``."""
    edges = torch.linspace(-math.pi, math.pi, BINS + 1, dtype=torch.float64)
    shifts = 2 * math.pi * torch.arange(-2, 3)
    z = edges[:, None, None] + shifts[:, None] - points.T[:, None, None]
    cells = torch.special.ndtr(z / math.sqrt(2 * time)).diff(dim=1).sum(2)  # (2, BINS, N)
    return mix * cells[0] @ cells[1].T / len(points) + (1 - mix) / BINS**2


def worst(particles, shares):
    """The largest distance of a cell's share from what is expected, in standard errors."""
    n = len(particles)
    cells = ((particles / math.pi + 1) / 2 * BINS).long().clamp(0, BINS - 1)
    found = torch.bincount(cells[:, 0] * BINS + cells[:, 1], minlength=BINS**2).reshape(BINS, BINS)
    error = (shares * (1 - shares) / n).clamp(min=1 / n**2).sqrt()
    return float(((found / n - shares).abs() / error).max())


@pytest.mark.parametrize(
    ("width", "scheme", "touch"), [(1400, "light", False), (390, "dark", True)]
)
def test_what_is_drawn_comes_out(opened, width, scheme, touch):
    page = opened(width, scheme, has_touch=touch)
    page.get_by_role("button", name="Clear").click()
    draw(page, touch)
    settled(page)
    points, particles, start, made = state(page)
    assert len(points) > 300
    shares = expected_shares(points, 0.003 + made["heat"], made["mix"])
    assert worst(particles, shares) < 6
    assert worst(start, shares) > 20  # the control: uniform points
    assert_accessible(page, width)


def assert_accessible(page, width):
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    violations = page.evaluate("async () => (await axe.run()).violations.map(v => v.help)")
    assert violations == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_the_estimator_says_what_its_sliders_do(opened, width, scheme):
    page = opened(width, scheme, name="estimator")
    error = "() => document.querySelector('.playground').playground.chosen.error"
    told = page.locator(".told")
    page.wait_for_function("document.querySelector('.told')?.textContent.includes('zero')")
    from_data = page.evaluate(error)
    page.get_by_label("exact averages").check()
    page.wait_for_function(f"({error})() < {from_data}")
    assert "The zero nearest to the real axis is 2.96 + 0.22i" in told.text_content()
    ridge = page.get_by_label("ridge ε", exact=True)
    ridge.fill("1")
    ridge.press("Enter")
    page.wait_for_function(f"({error})() > 0.3")  # a bias, whatever the points
    ridge.fill("NaN")
    ridge.press("Enter")
    assert "found “NaN”" in page.get_by_role("alert").text_content()
    assert_accessible(page, width)


def test_bad_input_is_explained_and_the_page_goes_on(opened):
    page = opened()
    told, box = page.locator(".told"), page.get_by_label("waves K", exact=True)
    box.fill("many")
    box.press("Enter")
    found = page.get_by_role("alert").text_content()
    assert "Expected a number from 8 to 400, found “many”" in found
    page.get_by_role("button", name="Clear").click()
    assert "Nothing is drawn yet" in told.text_content()
    few = torch.randn(60, 2, generator=torch.Generator().manual_seed(1)).flatten().tolist()
    cases = ("heat", [0.5, -0.5], "From fewer than 10 points"), ("none", few, "Shrink by heat")
    for rule, points, sentence in cases:
        page.get_by_label("shrinkage").select_option(rule)
        page.evaluate(
            "points => { const p = document.querySelector('.playground').playground;"
            " p.points = points; p.ask(); }",
            points,
        )
        settled(page)
        assert sentence in told.text_content()
    page.get_by_role("button", name="Shrink by heat").click()
    settled(page)
    assert page.get_by_label("shrinkage").input_value() == "heat"
    assert "heat 0." in told.text_content()


@pytest.mark.parametrize(
    "options", [{"java_script_enabled": False}, {"script": "delete window.Worker"}]
)
def test_without_scripts_or_workers_the_picture_stays(opened, options):
    page = opened(live=False, **options)
    page.wait_for_load_state("networkidle")
    assert page.locator("figure img").is_visible()
    assert page.locator("canvas").count() == 0


def test_the_picture_is_what_is_printed(opened):
    page = opened()
    assert not page.locator("figure img").is_visible()
    page.emulate_media(media="print")
    assert page.locator("figure img").is_visible()
    assert not page.locator("canvas.board").is_visible()


def test_it_moves_only_where_motion_is_welcome(opened):
    level = "document.querySelector('.playground').playground.level"
    assert opened().evaluate(level) == 0
    moving = opened(reduced_motion="no-preference")
    moving.wait_for_function(f"{level} > 1")


def test_the_keyboard_draws(opened):
    page = opened()
    page.get_by_role("button", name="Clear").click()
    page.locator("canvas.board").focus()
    for key in ("Space", "Shift+ArrowRight", "Shift+ArrowUp", "Space"):
        page.keyboard.press(key)
    settled(page)
    points = state(page)[0]
    assert len(points) == 24
    distance = (points[12:].mean(0) - points[:12].mean(0) - 0.4).abs().max()
    assert distance < 6 * 0.07 * math.sqrt(2 / 12)  # the brush's deviation
