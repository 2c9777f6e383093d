"""The book as a PDF: two small pages with what the real ones have, and what paper cannot show."""

import re
import shutil
import zlib
from importlib.metadata import distribution

import browser
import pdf
import pytest
from conftest import ROOT
from contents import BuildError, toc_pages, toc_parts

PAGE = """<!doctype html><html lang="en"><head><title>A page</title>
<link rel="stylesheet" href="{up}_static/book.css">
<link rel="stylesheet" href="{up}_static/print.css">
<style>.raised {{ box-shadow: 0 0 9px red !important; }}</style>
<script>window.MathJax = {{"options": {{"processHtmlClass": "math"}}}}</script>
<script defer src="{up}_static/mathjax/tex-chtml.js"></script>
<script src="{up}_static/fails.js"></script></head>
<body data-a="of the site"><article class="bd-article">{body}</article>
<div class="extra_footer"><p>Built on a day. <a href="#how">How</a></p></div></body></html>"""
OFFLINE = "sphinx-mathjax-offline"
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><circle r="9"/></svg>'
CODE = '<div class="cell_input"><div class="highlight"><pre>{}</pre></div></div>'
LONG = " + ".join(rf"\frac{{x_{{{i}}}}}{{y}}" for i in range(24))
HOME = """<section id="same"><h1>Home<button>¶</button></h1><p id="pdf" hidden></p>
<p><a href="one/first.html">a chapter</a>, <a href="one/first.html#same">a place in it</a>,
<a href="_static/data.csv">a download</a>, <a href="https://other.example/">elsewhere</a></p></section>"""
FIRST = (
    '<section id="same"><h1>The first <em>chapter</em></h1><h2 id="far">A section</h2>'
    r'<p>A <span class="math">\(\underbrace{a + b + c}_d\)</span>, <a href="#same">the top</a>, '
    '<a href="../index.html#same">home</a></p>'
    f'<div class="math" id="long">\\[{LONG}\\]</div>'
    f"<details><summary>Code</summary>{CODE.format('long = ' + '1 + ' * 60 + '1')}</details>"
    '<div style="height: 9000px"></div><figure class="raised">'
    '<img loading="lazy" src="../_images/dot.svg" alt="a">'
    "<figcaption>A dot</figcaption></figure></section>"
)
PARTS = [("", ["index"]), ("A part", ["one/first"])]
needs_browser = pytest.mark.skipif(
    browser.find_chromium() is None, reason="no Chromium found (apt install chromium)"
)


def site(folder, **bodies):
    """The home page and a chapter, with the book's own style sheets and MathJax."""
    static = folder / "_static"
    static.mkdir()
    for name in ("book.css", "print.css"):
        shutil.copy(ROOT / "book" / "assets" / name, static)
    mathjax = distribution(OFFLINE).locate_file(f"{OFFLINE}/static/mathjax")
    (static / "mathjax").symlink_to(mathjax, target_is_directory=True)
    (static / "fails.js").write_text("document.title = 'a script of the site ran';")
    (folder / "_images").mkdir()
    (folder / "_images" / "dot.svg").write_text(DOT)
    for name, up in (("index", ""), ("one/first", "../")):
        path = folder / f"{name}.html"
        path.parent.mkdir(exist_ok=True)
        body = bodies.get(path.stem, {"index": HOME, "first": FIRST}[path.stem])
        path.write_text(PAGE.format(up=up, body=body))
    return folder


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = site(tmp_path_factory.mktemp("html"))
    return pdf.printed(browser.find_chromium(), folder, "A <book>", PARTS)


def objects(content):
    """Number -> object without its stream, of a PDF as Chromium writes it."""
    found = re.finditer(
        rb"^(\d+) 0 obj\n(.*?)(?: stream\n.*?endstream)?\nendobj$", content, re.M | re.S
    )
    return {int(match[1]): match[2] for match in found}


def unpacked(content):
    """The same of a packed one, by its table of references alone."""

    def stream(at):
        head, _, rest = content[at:].partition(b" stream\n")
        length = int(re.search(rb"/Length (\d+)", head)[1])
        return head.partition(b" obj\n")[2], rest[:length]

    head, data = stream(int(content.split()[-2]))
    assert b"/W [1 4 2]" in head and b"/Root " in head
    data = zlib.decompress(data)
    places = [(data[i], int.from_bytes(data[i + 1 : i + 5], "big")) for i in range(0, len(data), 7)]
    assert len(places) == int(re.search(rb"/Size (\d+)", head)[1])
    found = {}
    for n, (kind, at) in enumerate(places):
        if kind == 1 and b"/ObjStm" not in stream(at)[0]:
            assert content[at:].startswith(b"%d 0 obj" % n)
            found[n] = stream(at)[0]
        elif kind == 2:
            within, packed = stream(places[at][1])
            inside = zlib.decompress(packed)
            first = int(re.search(rb"/First (\d+)", within)[1])
            numbers = [int(word) for word in inside[:first].split()]
            begins = dict(zip(numbers[::2], numbers[1::2], strict=True))
            index = int.from_bytes(data[7 * n + 5 : 7 * n + 7], "big")
            assert numbers[2 * index] == n
            ends = [*numbers[3::2], len(inside) - first][index]
            found[n] = inside[first + begins[n] : first + ends].strip()
    return found


def titles(content):
    """The outline: level and title, in order."""
    found = objects(content)

    def number(key, body):
        match = re.search(rb"/%b (\d+) 0 R" % key, body)
        return match and int(match[1])

    def walk(n, level):
        while n:
            body = found[n]
            text = re.search(rb"/Title (?:\(((?:\\.|[^)])*)\)|<FEFF(\w+)>)", body)
            yield level, (text[1] or bytes.fromhex(text[2].decode())).decode()
            yield from walk(number(b"First", body), level + 1)
            n = number(b"Next", body)

    (root,) = (body for body in found.values() if b"/Type /Outlines" in body)
    return list(walk(number(b"First", root), 1))


@needs_browser
def test_nothing_is_wrong_with_pages_that_paper_can_show(book):
    """Among others: ids that two pages share, links among pages, a formula wider than the paper."""
    assert book[1] == []


@needs_browser
def test_the_outline_has_parts_pages_and_sections(book):
    expected = [(1, "A <book>"), (2, "Home"), (1, "A part"), (2, "The first chapter")]
    assert titles(book[0]) == [*expected, (3, "A section")]


@needs_browser
def test_links_lead_within_the_book(book):
    content = book[0]
    assert set(re.findall(rb"/URI \((.*?)\)", content)) == {b"https://other.example/"}
    targets = re.findall(rb"/Dest /(\S+)", content)
    for name in (b"index", b"index:same", b"one#2Ffirst", b"one#2Ffirst:same"):
        assert name in targets or name.replace(b"#2F", b"/") in targets, targets


@needs_browser
def test_a_shadow_is_not_printed_as_a_picture(book):
    assert b"/Subtype /Image" not in book[0]


@needs_browser
def test_packing_changes_no_object(book):
    content = book[0]
    packed = pdf.packed(content)
    assert packed.startswith(b"%PDF-1.5") and len(packed) < 0.8 * len(content)
    found, before = unpacked(packed), objects(content)
    assert {n: found[n] for n in before} == before
    assert len(found) == len(before) + 1  # the table itself


# What each section of a page has, and what must be said of it.
FAULTS = {
    "box": (
        '<p style="width: 900px">wide</p>',
        r"nothing wider than its box, found \d+ px more: p in",
    ),
    "word": (
        f'<div id="word" style="width: 90px">{"w" * 40}</div>',
        r"nothing wider than its box, found \d+ px more: div in #one/first:word: www",
    ),
    "table": (
        f'<table id="table"><td>a</td><td style="overflow-wrap: normal">{"x" * 200}</td></table>',
        r"nothing wider than its box, found \d+ px more: table in #one/first:table",
    ),
    "formula": (
        f'<div class="math" id="equation-huge">\\[{" + ".join([LONG] * 3)}\\]</div>',
        r"a formula of at most \d+ px, found \d+ px",
    ),
    "tex": (
        r'<span class="math">\(\frac{a}\)</span>',
        "a formula that MathJax can read, found Miss",
    ),
    "unset": (
        r'<span class="math">\(a</span>',
        r"a formula that is set, found span.math in .*\(a$",
    ),
    "picture": (
        '<img src="../_images/no.svg" alt="no">',
        "the picture .*/_images/no.svg, found none",
    ),
    "link": ('<a href="#gone">gone</a>', "the place one/first:gone of a link, found none: a in"),
    "other": ('<a href="../index.html#no">no</a>', "the place index:no of a link, found none"),
}


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    body = "<h1>First</h1>" + "".join(body for body, _ in FAULTS.values())
    folder = site(tmp_path_factory.mktemp("faulty"), first=body)
    return pdf.printed(browser.find_chromium(), folder, "A book", PARTS)[1]


@needs_browser
@pytest.mark.parametrize("name", FAULTS)
def test_what_paper_cannot_show_is_named(name, faults):
    assert any(re.match(FAULTS[name][1], fault) for fault in faults), faults


@needs_browser
def test_a_page_that_is_missing(tmp_path):
    (site(tmp_path) / "one" / "first.html").unlink()
    with pytest.raises(BuildError, match="one/first: expected a page of the site, found none"):
        pdf.printed(browser.find_chromium(), tmp_path, "A book", PARTS)


def test_the_home_page_has_the_link_once(tmp_path):
    home = tmp_path / "index.html"
    home.write_text('<p id="pdf" hidden></p>\n<p>more</p>')
    for pages in (7, 8):
        pdf.linked(home, b" " * 2_600_000, pages)
    link = '<a href="_static/markovscore.pdf">The whole book as a PDF</a>: 8 pages, 3 MB.'
    assert home.read_text() == f'<p id="pdf">{link}</p>\n<p>more</p>'
    home.write_text("<p>none</p>")
    with pytest.raises(BuildError, match=r"in book/index\.md, found none"):
        pdf.linked(home, b"", 1)


def test_the_home_page_keeps_a_place_for_the_link():
    assert pdf.LINK.search((ROOT / "book" / "index.md").read_text())


def test_without_a_site_or_a_browser(tmp_path, monkeypatch):
    monkeypatch.setattr(pdf, "BUILD", tmp_path)
    with pytest.raises(BuildError, match="expected a site in _build/html, found none"):
        pdf.make()
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").touch()
    monkeypatch.setattr(pdf, "find_chromium", lambda: None)
    with pytest.raises(BuildError, match="expected Chromium, found none"):
        pdf.make()


def test_the_parts_have_every_page():
    parts = toc_parts()
    assert parts[0] == ("", ["index"])
    assert [page for _, pages in parts for page in pages] == toc_pages()
