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

import markovscore as ms

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: no test extra")
CHROMIUM = browser.find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (apt install chromium)")
PAGE = """<!doctype html>
<html lang="en" data-theme="light"><head><title>A playground</title>
<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="book.css">
<style>html { --pst-color-text-base: #222; --pst-color-text-muted: #555; color: #222;
  --pst-color-danger: #d72d47; --pst-color-danger-text: #fff; }
html[data-theme="dark"] { --pst-color-background: #111; --pst-color-text-base: #eee;
  --pst-color-danger: #e78894; --pst-color-danger-text: #14181e;
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
    for name in ("torus", "estimator", "linearisation"):
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


def draw(page, touch=False, canvas="canvas.board", stroke=STROKE):
    page.locator(canvas).scroll_into_view_if_needed()
    box = page.locator(canvas).bounding_box()
    at = [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in stroke]
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


def written(page, label, text):
    """The complaint about a number's text."""
    box = page.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Enter")
    return page.locator(f"#{box.get_attribute('aria-describedby')}").text_content()


def window_state(page):
    """What the linearisation's playground shows, after the next frame."""
    return page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {"
        " const p = document.querySelector('.playground').playground; done({"
        " y: p.start.value, h: p.window.value, at: p.law.density(1), bias: Math.abs(p.law.bias),"
        " label: 1 / p.gauss.variance, told: p.message.textContent,"
        " picture: p.canvases[0].element.toDataURL()}); })))"
    )


@pytest.mark.parametrize(
    ("width", "scheme", "touch"), [(1400, "light", False), (390, "dark", True)]
)
def test_start_and_window_are_dragged(opened, width, scheme, touch):
    page = opened(width, scheme, name="linearisation", has_touch=touch)
    page.wait_for_selector(".told")
    before = window_state(page)
    assert (before["y"], before["h"]) == (0.2, 0.3)
    board, meter = ("canvas.drag >> nth=0", "canvas.drag >> nth=1")
    draw(page, touch, board, [(0.5, 0.4), (0.6, 0.4), (0.65, 0.5)])
    after, wide = window_state(page), page.locator(board).bounding_box()["width"]
    expected = ((0.65 * wide - 44) / (wide - 54) * 2 - 1) * 3.2  # a picture from -3.2 to 3.2
    assert abs(after["y"] - expected) < 0.02
    assert after["at"] > 1.2 * before["at"] and after["picture"] != before["picture"]
    draw(page, touch, board, [(0.65, 0.4), (0.99, 0.4)])
    assert window_state(page)["y"] == 2
    assert "2 is taken" in page.locator(".fault:not(:empty)").text_content()
    draw(page, touch, meter, [(0.7, 0.4), (0.5, 0.4)])
    wide = page.locator(meter).bounding_box()["width"]
    low, high = math.log10(0.02) - 0.05, math.log10(1.28) + 0.05
    h = 10 ** (low + (0.5 * wide - 44) / (wide - 54) * (high - low))
    assert abs(window_state(page)["h"] / h - 1) < 0.03
    assert_accessible(page, width)


def test_start_and_window_obey_the_keyboard_and_refuse_text(opened):
    page = opened(name="linearisation")
    page.wait_for_selector(".told")
    page.locator("canvas.drag").first.focus()
    for key in ("ArrowRight", "Shift+ArrowLeft", "ArrowDown", "Tab"):
        page.keyboard.press(key)
    state = window_state(page)
    assert abs(state["y"] - 0.04) < 1e-12 and abs(state["h"] * 2**0.125 / 0.3 - 1) < 1e-9
    page.get_by_label("start y, slider").focus()
    page.keyboard.press("ArrowRight")
    assert abs(window_state(page)["y"] - 0.12) < 1e-12
    for text, complaint in (("NaN", "found “NaN”."), ("left", "found “left”."), ("", "found “”.")):
        assert complaint in written(page, "start y", text)
    assert window_state(page)["y"] == 0.12
    assert "from 0.02 to 1.28, found “9”: 1.28 is taken." in written(page, "window h", "9")
    assert window_state(page)["h"] == 1.28


def test_half_the_window_has_a_quarter_of_the_bias(opened):
    page = opened(name="linearisation")
    page.wait_for_selector(".told")
    assert written(page, "start y", "1") == written(page, "window h", "0.04") == ""
    whole = window_state(page)
    assert written(page, "window h", "0.02") == ""
    half = window_state(page)
    assert abs(whole["bias"] / half["bias"] / 4 - 1) < 0.1  # the next order is a factor h smaller
    growth = (1 + math.exp(-2 * 2 * 0.02)) / 2  # of the variance P, beside doubling; J = -2
    assert abs(half["label"] / whole["label"] / 2 / growth - 1) < 1e-9
    _, P = ms.local_transition(ms.DoubleWell(), torch.ones(1, 1, dtype=torch.float64), 0.0, 0.02)
    assert abs(half["label"] * float(P) - 1) < 1e-9
    assert f"Variance of the label: {half['label']:.3g}; 1/h is 50." in half["told"]


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


NO_TABLE = "window.fetch = async () => new Response('{}')"


@pytest.mark.parametrize(
    "options",
    [
        {"java_script_enabled": False},
        {"script": "delete window.Worker"},
        {"script": NO_TABLE, "name": "linearisation"},
    ],
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
