"""``make pdf``: the whole built site as one PDF, to which its home page then has a link.

The system's Chromium reads the pages from a server on this machine, puts them one after the other
(``pdf.js``: links lead within the book, what is folded is open, formulas fit) and prints them as
``assets/print.css`` says. What would be cut off on paper, or is not there, is named, and then no
PDF is written. It lies within the site, so that a site that is built again has none.
"""

from __future__ import annotations

import html
import re
import sys
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml
from browser import find_chromium, served
from contents import BUILD, ROOT, BuildError, explained, toc_parts

HERE = Path(__file__).resolve().parent
PDF = "_static/markovscore.pdf"
PAPER = {"width": 657, "height": 980}  # pixels: A4 within the margins of assets/print.css
PATIENCE = 1_800_000  # milliseconds for one step, on a busy machine
EMPTY = (
    '<!doctype html><html lang="en" data-theme="light" data-mode="light">'
    '<meta charset="utf-8"><title>{}</title><link rel="icon" href="data:,"><body></body></html>'
)
MEASURED = (
    "[...pdf.faults(), ...book.equations(false), ...book.inline(), ...book.code(), "
    "...book.sideways()]"
)
LINK = re.compile(r'<p id="pdf".*?</p>', re.S)
TOGETHER = 200  # objects in one stream


def printed(
    chromium: str, site: Path, title: str, parts: Sequence[tuple[str, Sequence[str]]]
) -> tuple[bytes, list[str]]:
    """The PDF of the pages of ``site``, with an outline and tags; and what is wrong with it.

    ``parts``: pairs of a caption and the names of its pages, the first of which is the home page.
    """
    from playwright.sync_api import Error, sync_playwright

    with served(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=PAPER, color_scheme="light", reduced_motion="reduce")
        page.set_default_timeout(PATIENCE)
        page.emulate_media(media="print")
        empty = EMPTY.format(html.escape(title))
        page.route(f"{address}/", lambda route: route.fulfill(body=empty, content_type="text/html"))
        page.goto(f"{address}/")
        page.evaluate((HERE / "pdf.js").read_text(encoding="utf-8"))
        try:
            page.evaluate("parts => pdf.assemble(parts)", parts)
        except Error as error:
            raise BuildError(f"pdf: {error.message}; run `make book`") from error
        page.evaluate((HERE / "browser.js").read_text(encoding="utf-8"))
        faults = page.evaluate(MEASURED)
        pdf = page.pdf(prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
        browser.close()
    return pdf, faults


def packed(pdf: bytes) -> bytes:
    """The same PDF with its small objects in compressed streams: about half of one with tags.

    ISO 32000-1, 7.5.7 (object streams) and 7.5.8 (cross-reference streams). ``pdf`` is as Chromium
    writes it: one table of references, no object in a stream.
    """
    trailer, whole, small = _objects(pdf)
    places = {0: (0, 0, 0xFFFF)}
    names, following = list(small), max([*whole, *small]) + 1
    for first in range(0, len(names), TOGETHER):
        group, own, following = names[first : first + TOGETHER], following, following + 1
        begins, content = b"", b""
        for index, n in enumerate(group):
            begins += b"%d %d " % (n, len(content))
            content += small[n] + b"\n"
            places[n] = (2, own, index)
        kind = b"/Type /ObjStm /N %d /First %d" % (len(group), len(begins))
        whole[own] = _stream(kind, begins + content)
    written = bytearray(b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n")
    for n, body in whole.items():
        places[n] = (1, len(written), 0)
        written += b"%d 0 obj\n%b\nendobj\n" % (n, body)
    places[following] = (1, len(written), 0)
    table = b"".join(
        b"%c%b%b" % (kind, at.to_bytes(4, "big"), index.to_bytes(2, "big"))
        for kind, at, index in (places.get(n, places[0]) for n in range(following + 1))
    )
    kind = b"/Type /XRef /Size %d /W [1 4 2] %b" % (following + 1, trailer)
    written += b"%d 0 obj\n%b\nendobj\n" % (following, _stream(kind, table))
    return bytes(written + b"startxref\n%d\n%%%%EOF\n" % places[following][1])


def _objects(pdf: bytes) -> tuple[bytes, dict[int, bytes], dict[int, bytes]]:
    """What the trailer says but for the size, the objects with a stream and those without."""
    start = int(pdf[pdf.rindex(b"startxref") :].split()[1])
    rows, _, trailer = pdf[start:].partition(b"trailer")
    entries = enumerate(re.findall(rb"(\d{10}) \d{5} ([nf])", rows))
    offsets = sorted((int(at), n) for n, (at, kind) in entries if kind == b"n")
    whole, small = {}, {}
    for (at, n), (end, _) in pairwise([*offsets, (start, 0)]):
        body = pdf[at:end].partition(b"obj")[2].strip().removesuffix(b"endobj").strip()
        (whole if body.endswith(b"endstream") else small)[n] = body
    said = trailer[trailer.index(b"<<") + 2 : trailer.rindex(b">>")]
    return re.sub(rb"/Size \d+", b"", said).strip(), whole, small


def _stream(kind: bytes, content: bytes) -> bytes:
    data = zlib.compress(content, 9)
    head = b"<<%b /Filter /FlateDecode /Length %d>>" % (kind, len(data))
    return b"%b stream\n%b\nendstream" % (head, data)


def linked(home: Path, pdf: bytes, pages: int) -> None:
    """Let the home page, which keeps a place for it, have the link to the PDF."""
    text = home.read_text(encoding="utf-8")
    size = f"{pages} pages, {len(pdf) / 1e6:.0f} MB"
    link = f'<p id="pdf"><a href="{PDF}">The whole book as a PDF</a>: {size}.</p>'
    text, found = LINK.subn(link, text)
    if not found:
        raise BuildError('pdf: expected <p id="pdf" hidden></p> in book/index.md, found none; add')
    home.write_text(text, encoding="utf-8")


def make() -> int:
    """Print the site, unless something is wrong with it."""
    site = BUILD / "html"
    if not (site / "index.html").is_file():
        raise BuildError("pdf: expected a site in _build/html, found none; run `make book`")
    chromium = find_chromium()
    if chromium is None:
        raise BuildError("pdf: expected Chromium, found none; apt install chromium")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    pdf, faults = printed(chromium, site, config["title"], toc_parts())
    for fault in faults:
        print(f"pdf: expected {fault}", file=sys.stderr)
    if faults:
        return 1
    pages, pdf = len(re.findall(rb"/Type /Page\b", pdf)), packed(pdf)
    (site / PDF).write_bytes(pdf)
    linked(site / "index.html", pdf, pages)
    print(f"_build/html/{PDF}: {pages} pages, {len(pdf) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(explained(make))
