"""What only a browser can tell of the built site; called by ``check_site.py``.

Every page is loaded in the system's Chromium, from a server on this machine, and shown at the
width of a desktop, of a wide screen and of a phone. ``browser.js`` measures; this file says what
is wrong.
axe-core, which comes with ``axe-playwright-python``, judges accessibility, and colours in dark too.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
DESKTOP, WIDE, PHONE = (1400, 900), (1920, 1080), (390, 844)
FIRST_FIGURE = 1300  # pixels from the top: a screen and a half of DESKTOP
SMALLEST_TEXT = 7.0  # pixels, in a figure on PHONE
THEME = 600  # milliseconds until the theme has made what scrolls at a new width reachable by keys
PATIENCE = 120_000  # milliseconds for a page to load, on a busy machine
AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    },
    "rules": {"label-content-name-mismatch": {"enabled": True}},
    "resultTypes": ["violations"],
    "preload": False,
}
COLOURS = {**AXE, "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
# What has the same colours on a phone as on a desktop, where most of the time goes to colours.
OUTSIDE = "article.bd-article"
# Faults of the theme that neither a style sheet nor a hook can mend: rule, selector, reason.
THEME_FAULTS: tuple[tuple[str, str, str], ...] = ()
VIEW_BOX = re.compile(r'<svg[^>]*\bviewBox="\S+ \S+ (\S+) \S+"')
TEXT = re.compile(r'<g id="text_\d+">(?:(?!<g id=)[\s\S])*?scale\(([\d.]+) -[\d.]+\)')
FONT = re.compile(r"<text[^>]*font(?:-size)?:[^;\"]*?([\d.]+)px")


@dataclass
class Seen:
    """What the browser found: sentences, each with the pages that it is true of; and measures."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)  # of a page's height that is code

    def add(self, page: str, sentences: Sequence[str]) -> None:
        """Keep each sentence once, with its pages."""
        for sentence in sentences:
            pages = self.faults.setdefault(sentence, [])
            if page not in pages:
                pages.append(page)

    def problems(self) -> list[str]:
        """One line each: the page (or the first of several), what was expected, what was found."""

        def line(sentence: str, pages: list[str]) -> str:
            first, *others = pages
            return f"{first}{f' and {len(others)} more pages' * bool(others)}: {sentence}"

        return [line(sentence, pages) for sentence, pages in self.faults.items()]


def find_chromium() -> str | None:
    """The system's Chromium or Chrome; nothing is ever downloaded."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    return next(iter(found), MAC if os.path.exists(MAC) else None)


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of ``folder`` on a free port of this machine."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def look(
    chromium: str,
    html: Path,
    pages: Sequence[str],
    chapters: Sequence[str],
    searches: Mapping[str, str],
) -> Seen:
    """Load each page of the site in ``html``; of a chapter the place of its first figure counts.

    ``searches``: a word -> how the address of the first page begins that a search finds (regular
    expression).
    """
    with served(html) as address:
        return asyncio.run(_look(chromium, html, address, pages, set(chapters), searches))


async def _look(
    chromium: str,
    html: Path,
    address: str,
    pages: Sequence[str],
    chapters: set[str],
    searches: Mapping[str, str],
) -> Seen:
    from playwright.async_api import async_playwright

    seen, queue = Seen(), list(pages)[::-1]

    async def work(browser: Any) -> None:
        while queue:
            page = queue.pop()
            await patient(Visit(html, address, page, page in chapters, seen), browser)

    async with async_playwright() as playwright:
        # No name but the server's is looked up: a request to another host fails at once.
        flags = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        browser = await playwright.chromium.launch(executable_path=chromium, args=flags)
        await asyncio.gather(*(work(browser) for _ in range(os.cpu_count() or 1)))
        for word, start in searches.items():
            visit = Visit(html, address, f"search.html?q={word}", False, seen)
            await visit.search(browser, start)
        await browser.close()
    return seen


async def patient(visit: Visit, browser: Any) -> None:
    """Look at a page, and again in a fresh window where the browser stops answering, as one that
    is starved by other work may; a page that it does not answer for twice is a fault."""
    for _ in range(2):
        with suppress(TimeoutError):
            await asyncio.wait_for(visit.look(browser), 2 * PATIENCE / 1000)
            return
    visit.seen.add(visit.name, [f"expected the browser to answer within {PATIENCE // 500} s"])


@dataclass(frozen=True)
class Visit:
    """One page of the site in the browser."""

    html: Path
    address: str
    name: str
    is_chapter: bool
    seen: Seen

    async def look(self, browser: Any) -> None:
        """All that is measured in the page at three widths; then how accessible it is."""
        context, page = await self._open(browser)
        await self._desktop(page)
        await self._wide(page)
        await self._phone(page)
        await page.wait_for_timeout(THEME)
        await page.evaluate("book.thin()")  # for axe, and it is measured no more
        await page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
        await self._accessible(page, "390 px, light", AXE, OUTSIDE)
        await self._resize(page, DESKTOP)
        await self._accessible(page, "1400 px, light", AXE)
        await page.emulate_media(color_scheme="dark")
        await page.evaluate("book.dress('dark')")
        await self._accessible(page, "1400 px, dark", COLOURS)
        await context.close()

    async def _desktop(self, page: Any) -> None:
        """What is cut off on a desktop, the top of the page, and its figures."""
        self.seen.share[self.name] = await page.evaluate("book.share()")
        self._report("1400 px", await page.evaluate("book.code()"))
        pictures = await page.evaluate("book.pictures()")
        self._report("", self._described(pictures))
        tops = [picture["top"] for picture in pictures if picture["output"]]
        if self.is_chapter and tops and min(tops) > FIRST_FIGURE:
            found = f"the first figure within {FIRST_FIGURE} px, found it {min(tops):.0f} px down"
            self._report("1400 px", [found])
        await self._zoom(page)
        await page.evaluate("book.unfold()")
        self._report("1400 px", await page.evaluate("[...book.equations(false), ...book.inline()]"))

    async def _wide(self, page: Any) -> None:
        """What is cut off on a wide screen."""
        await self._resize(page, WIDE)
        measured = "[...book.equations(false), ...book.inline(), ...book.code()]"
        self._report("1920 px", await page.evaluate(measured))

    async def _phone(self, page: Any) -> None:
        """What a phone cannot show, or shows too small."""
        await self._resize(page, PHONE)
        measured = "[...book.equations(true), ...book.inline(), ...book.sideways()]"
        self._report("390 px", await page.evaluate(measured))
        self._report("390 px", self._small(await page.evaluate("book.pictures()")))

    async def _resize(self, page: Any, size: tuple[int, int]) -> None:
        """Another size, and the top of the page, as if it were loaded so."""
        await page.set_viewport_size({"width": size[0], "height": size[1]})
        await page.evaluate("scrollTo(0, 0); book.settled()")

    async def search(self, browser: Any, start: str) -> None:
        """Whether the first page found has an address that begins with ``start``."""
        from playwright.async_api import TimeoutError

        context, page = await self._open(browser)
        links = page.locator("#search-results li a")
        with suppress(TimeoutError):
            await links.first.wait_for(timeout=PATIENCE / 6)
        found = [await link.get_attribute("href") for link in await links.all()]
        if not found or not re.match(start, found[0]):
            self._report("", [f"a page that begins with {start} first, found {found[:3]}"])
        await context.close()

    async def _zoom(self, page: Any) -> None:
        """A click on a figure shows it larger, Escape closes it."""
        figure = page.locator(".zoomable:visible").first
        if not await figure.count():
            return
        small = await figure.locator("img").bounding_box()
        await figure.locator("button").click()
        large = await page.locator("dialog.zoom img").bounding_box()
        if large is None or large["width"] <= small["width"]:
            self._report("1400 px", [f"a figure larger than {small}, found {large}"])
        await page.keyboard.press("Escape")
        if await page.locator("dialog.zoom").is_visible():
            self._report("1400 px", ["a figure that Escape closes, found it open"])

    async def _open(self, browser: Any) -> tuple[Any, Any]:
        context = await browser.new_context(
            viewport={"width": DESKTOP[0], "height": DESKTOP[1]},
            reduced_motion="reduce",
            color_scheme="light",
        )
        context.set_default_timeout(PATIENCE)
        page = await context.new_page()
        page.on("request", lambda request: self._requested(request.url))
        page.on("console", lambda message: self._logged(message))
        page.on("pageerror", lambda error: self._report("", [f"no error, found {error}"]))
        name = self.name if "?" in self.name else f"{self.name}.html"
        await page.goto(f"{self.address}/{name}")
        await page.evaluate(Path(__file__).with_suffix(".js").read_text(encoding="utf-8"))
        await page.evaluate("book.settled()")
        return context, page

    async def _accessible(
        self, page: Any, where: str, options: dict[str, Any], colours: str | None = None
    ) -> None:
        """axe-core's rules; those of ``colours`` apart, where so much of the page is asked."""
        given = [options, COLOURS["runOnly"]["values"], colours]
        for fault in await page.evaluate("given => book.accessible(...given)", given):
            rule, target = fault["rule"], fault["target"]
            if not any(rule == r and target == t for r, t, _ in THEME_FAULTS):
                self._report(where, [f"{fault['help']}, found {rule}: {target}"])

    def _report(self, where: str, expected: Sequence[str]) -> None:
        prefix = f"at {where} expected" if where else "expected"
        self.seen.add(self.name, [f"{prefix} {sentence}" for sentence in expected])

    def _requested(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self._report("", [f"no request to another host, found {url}"])

    def _logged(self, message: Any) -> None:
        if message.type == "error" and message.location["url"].startswith(self.address):
            place = message.location["url"].removeprefix(self.address)
            self._report("", [f"no error in the console, found {message.text} ({place})"])

    def _described(self, pictures: list[dict[str, Any]]) -> Iterator[str]:
        for picture in pictures:
            if not (picture["alt"] or "").strip() or "_images/" in picture["alt"]:
                yield f"a description (alt text) of each image, found none of {picture['name']}"

    def _small(self, pictures: list[dict[str, Any]]) -> Iterator[str]:
        for picture in pictures:
            path = self.html / unquote(urlsplit(picture["source"]).path).lstrip("/")
            shown = picture["width"] > 0  # which the picture of a closed dialog is not
            if shown and path.suffix == ".svg" and path.is_file():
                size = smallest_text(path.read_text(encoding="utf-8"), picture["width"])
                if size < SMALLEST_TEXT - 0.05:
                    yield (
                        f"text of at least {SMALLEST_TEXT:g} px in a figure, "
                        f"found {size:.1f} px in {picture['name']}"
                    )


def smallest_text(svg: str, width: float) -> float:
    """The size in pixels of the smallest text of a figure that is shown ``width`` pixels wide.

    Matplotlib draws text as paths of a font of 100 units; sub- and superscripts do not count.
    """
    box = VIEW_BOX.search(svg)
    sizes = [100 * float(scale) for scale in TEXT.findall(svg)]
    sizes += [float(size) for size in FONT.findall(svg)]
    return min(sizes, default=float("inf")) * width / float(box[1]) if box else float("inf")
