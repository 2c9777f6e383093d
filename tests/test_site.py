"""The checks of the site and of the chapters' text, each on a page that breaks one rule."""

import asyncio
import re

import browser
import check_site
import pytest
import reading

PAGE = """<!doctype html>
<html lang="en"><head><title>A page</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width">
<style>
figure {{ margin: 0; }}
body {{ margin: 0; color: #111; background: #fff; font: 16px sans-serif; }}
.math {{ overflow-x: auto; position: relative; }}
mjx-container, mjx-math {{ display: block; }}
mjx-math > * {{ display: inline-block; height: 20px; }}
.eqno {{ position: absolute; right: 0; top: 0; }}
pre {{ overflow-x: auto; }}
</style></head>
<body><main><article class="bd-article"><h1>A page</h1>{}</article></main></body></html>
"""
MATH = """<div class="math" id="equation-eq-{name}">{number}<mjx-container display="true">
<mjx-math><mjx-mi style="width: {width}px"></mjx-mi></mjx-math></mjx-container></div>"""
NUMBER = '<span class="eqno">(1.2)</span>'
CODE = '<div class="cell_input"><div class="highlight"><pre>{}</pre></div></div>'
IMAGE = '<img src="{}" style="width: 100%" alt="{}">'
SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="518pt" height="99pt" viewBox="0 0 518 99">
<g id="text_1"><!-- one --><g transform="translate(9 9) rotate(-90) scale({scale} -{scale})">
<use transform="translate(0 1) scale(0.7)"/></g></g></svg>"""
ZOOM = """<style>dialog {{ max-width: none }}</style>
<span class="zoomable"><img src="large.svg" alt="a line" style="width: 95%">
<button onclick="enlarge()">Enlarge</button></span>
<dialog class="zoom" aria-label="a line"></dialog>
<script>function enlarge() {{
  const dialog = document.querySelector("dialog");
  dialog.innerHTML = '<img src="large.svg" alt="a line" style="width: {width}px">';
  dialog.{show}();
}}</script>"""
KINDS = "\n".join(f'<span class="k{i}">name_{i}</span> = 1' for i in range(40))
# The pages of a site: what each shows, and what the browser must say of it.
PAGES = {
    "sound": (
        MATH.format(name="short", number="", width=300)
        + CODE.format("x = 1")
        + f"<figure>{IMAGE.format('large.svg', 'a line')}</figure>",
        [],
    ),
    "equation": (
        MATH.format(name="long", number="", width=1500),
        ["at 1400 px expected a formula of at most 1400 px, found 1500 px: eq-long"],
    ),
    "number": (
        MATH.format(name="under", number=NUMBER, width=370),
        [r"at 390 px expected a number beside its formula, found \d+ px over it: eq-under"],
    ),
    "phone": (
        MATH.format(name="clipped", number="", width=600).replace(
            'class="math"', 'class="math" style="overflow-x: hidden"'
        ),
        [
            "at 390 px expected a formula that fits or scrolls in its own box, "
            "found one of 600 px in 390 px: eq-clipped"
        ],
    ),
    "code": (
        CODE.format(f"short = 1\nlong = {'1 + ' * 80}1"),
        [
            r"at 1400 px expected code lines of at most 1400 px, found \d{4} px \(328 characters\)",
            "at 1400 px, light expected .*found scrollable-region-focusable: pre",
            "at 390 px, light expected .*found scrollable-region-focusable: pre",
        ],
    ),
    "kinds": (CODE.format(KINDS), []),
    "sideways": (
        '<div id="wide" style="width: 500px">wide</div>',
        [r"at 390 px expected a page no wider than 390 px, found 110 px more: #wide"],
    ),
    "inline": (
        '<p style="overflow-x: hidden"><mjx-container style="display: inline-block; width: 450px">'
        "</mjx-container></p>",
        ["at 390 px expected a formula in the text within the column, found 60 px beyond it"],
    ),
    "console": (
        '<script>console.error("went wrong"); undefined.thing</script>',
        [
            r"expected no error in the console, found went wrong \(/console.html\)",
            "expected no error, found Cannot read properties of undefined",
        ],
    ),
    "foreign": (
        '<script>fetch("http://other.example/data").catch(() => 0)</script>',
        ["expected no request to another host, found http://other.example/data"],
    ),
    "contrast": (
        '<p id="pale" style="color: #aaa">pale</p>',
        [
            r"at 1400 px, light expected .* contrast .*#aaaaaa on #ffffff: 2.32, expected 4.5:1.*"
            "found color-contrast: #pale"
        ],
    ),
    "label": (
        '<button aria-label="Open" id="b">Search here</button>',
        ["at 390 px, light expected .*found label-content-name-mismatch: #b"],
    ),
    "tiny": (
        f"<figure>{IMAGE.format('small.svg', 'a line')}</figure>",
        [r"at 390 px expected text of at least 7 px in a figure, found 6\.0 px in small.svg"],
    ),
    "blind": (
        IMAGE.format("large.svg", ""),
        [r"expected a description \(alt text\) of each image, found none of large.svg"],
    ),
    "late": (
        f'<div style="height: 2000px"></div><figure>{IMAGE.format("large.svg", "a line")}</figure>',
        [r"at 1400 px expected the first figure within 1300 px, found it 20\d\d px down"],
    ),
    "zoom": (
        "<button>before</button>" + ZOOM.format(show="showModal", width=9),
        [r"at 1400 px expected a figure larger than .*found .*'width': 9"],
    ),
    "escape": (
        ZOOM.format(show="show", width=1390),
        ["at 1400 px expected a figure that Escape closes, found it open"],
    ),
    "enlarged": (ZOOM.format(show="showModal", width=1390), []),
}
SEARCH = """<ul id="search-results"></ul><script>
const found = {"sound": "sound.html", "code": "kinds.html"}[location.search.slice(3)];
const item = `<li><a href="${found}">found</a></li>`;
if (found) setTimeout(() => document.querySelector("ul").innerHTML = item, 50);
</script>"""
needs_browser = pytest.mark.skipif(
    browser.find_chromium() is None, reason="no Chromium found (apt install chromium)"
)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    html = tmp_path_factory.mktemp("html")
    for name, (body, _) in PAGES.items():
        (html / f"{name}.html").write_text(PAGE.format(body))
    for name, scale in (("small", 0.08), ("large", 0.105)):
        (html / f"{name}.svg").write_text(SVG.format(scale=scale))
    (html / "search.html").write_text(PAGE.format(SEARCH))
    searches = {"sound": "sound", "code": r"(?!kinds)", "nothing": "sound"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browser, "PATIENCE", 30_000)
        return browser.look(browser.find_chromium(), html, list(PAGES), list(PAGES), searches)


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_the_browser_finds(name, seen):
    said = [sentence for sentence, pages in seen.faults.items() if name in pages]
    expected = PAGES[name][1]
    for pattern in expected:
        assert any(re.match(pattern, sentence) for sentence in said), said
    if not expected:
        assert said == []


@needs_browser
@pytest.mark.parametrize(
    ("word", "found"), [("sound", None), ("code", "kinds.html"), ("nothing", r"\[\]")]
)
def test_a_search_has_to_find(word, found, seen):
    said = [s for s, pages in seen.faults.items() if f"search.html?q={word}" in pages]
    assert len(said) == (found is not None)
    for sentence in said:
        assert re.search(f"expected a page that begins with .* first, found .*{found}", sentence)


@needs_browser
def test_code_has_a_share_of_a_page(seen):
    assert 0 < seen.share["sound"] < seen.share["code"] < 1
    assert seen.share["equation"] == 0


def test_a_fault_of_many_pages_is_one_line():
    seen = browser.Seen()
    for page in ("one", "two", "two", "three"):
        seen.add(page, ["expected a, found b"])
    assert seen.problems() == ["one and 2 more pages: expected a, found b"]


@pytest.mark.parametrize(("choice", "problems"), [("auto", 0), ("required", 1)])
def test_a_browser_may_be_missing_where_it_is_not_required(choice, problems, monkeypatch, capsys):
    monkeypatch.setattr(browser, "find_chromium", lambda: None)
    found, share = check_site.show(choice)
    assert len(found) == problems and share == {}
    said = capsys.readouterr().out + "".join(found)
    assert "no Chromium found (apt install chromium)" in said


def test_links_lead_somewhere(tmp_path):
    (tmp_path / "part").mkdir()
    there = (
        '<p id="here"></p><a href="#here"></a><a href="../b.html#far"></a><a href="https://x"></a>'
    )
    (tmp_path / "part" / "a.html").write_text(there)
    (tmp_path / "b.html").write_text(
        '<b id="far"></b><a href="part/a.html#gone"></a><a href="c.html">'
    )
    assert list(check_site.Site(tmp_path).broken()) == [
        "b: expected the page c.html of a link, found none",
        "b: expected the place part/a.html#gone of a link, found none",
    ]


CHAPTER = """---
jupytext: {}
---

# A chapter

:::{admonition} At a glance
Three words here.
:::

```{code-cell} ipython3
:tags: [hide-input]

import torch
```

One formula $a + b$ more.

$$
a = b
$$ (eq-a)

```{code-cell} ipython3
x = 1

y = 2
```
"""


def found(text):
    return list(reading.Text("part/chapter", text).problems())


def test_a_chapter_in_order():
    chapter = reading.Text("part/chapter", CHAPTER)
    assert list(chapter.problems()) == []
    assert chapter.words == len(
        ["A", "chapter", "Three", "words", "here", "One", "formula", "x", "more"]
    )
    assert [len(cell.lines) for cell in chapter.cells] == [1, 2]
    assert [cell.folded for cell in chapter.cells] == [True, False]
    assert chapter.minutes == chapter.words / 220 + 2 / 15


@pytest.mark.parametrize(
    ("old", "new", "line", "sentence"),
    [
        ("x = 1", f"x = {'1' * 76}", 24, "a line of at most 79 characters, found 80"),
        ("x = 1", "x = 1\n" * 25, 24, "a cell of at most 25 lines, found 26"),
        ("x = 1", "import math", 24, "a cell tagged hide-input, found one that imports"),
        ("y = 2", "plt.show()", 26, "a cell tagged hide-input, found one that draws"),
        ("y = 2", "claims.record(", 26, "a cell tagged hide-input, found one that records a claim"),
        ("y = 2", 'glue("x", y)', 26, "a cell tagged hide-input, found one that glues"),
        (":::{admonition} At a glance", ":::{note}", 1, 'an opening box "At a glance"'),
        ("a = b", f"a = b\\\\\n{'+ b' * 60}", 21, "a line of a formula of at most 90 symbols"),
        ("Three", "Three " * 2500, 1, "at most 2,500 words of prose, found 2,50"),
        ("One formula", "![](a.png)", 17, "a description (alt text) of the image, found none"),
        (
            ":tags: [hide-input]\n",
            "---\ntags: [hide-input]\nmystnb:\n  figure:\n    name: fig-a\n---",
            18,
            "a description (alt text) of the figure, found none",
        ),
    ],
)
def test_a_page_that_breaks_a_rule_is_named_with_its_line(old, new, line, sentence):
    (problem,) = found(CHAPTER.replace(old, new, 1))
    place, _, rest = problem.partition(": expected ")
    assert place == f"book/part/chapter.md:{line}"
    assert rest.startswith(sentence)


def test_scripts_and_fractions_take_little_room():
    assert reading.symbols(r"a = \frac{b + c}{d} \left( x_{i+1}^2 \right)") == 2 + 2 + 3
    assert reading.symbols(r"\begin{aligned} \mathrm{KL} &= \alpha \end{aligned}") == 4


class Silent:
    """A page that the browser does not answer for, so many times."""

    name = "page"

    def __init__(self, times):
        self.left, self.seen = times, browser.Seen()

    async def look(self, window):
        self.left -= 1
        if self.left >= 0:
            await asyncio.Event().wait()


@pytest.mark.parametrize(("times", "faults"), [(0, 0), (1, 0), (2, 1)])
def test_a_browser_that_does_not_answer_is_asked_twice(times, faults, monkeypatch):
    monkeypatch.setattr(browser, "PATIENCE", 10)
    visit = Silent(times)
    asyncio.run(browser.patient(visit, None))
    assert len(visit.seen.problems()) == faults
