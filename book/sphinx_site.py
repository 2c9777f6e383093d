"""Sphinx extension of the book: no scripts of live code, a footer, the search's ranking, no weight.

Jupyter Book always loads ``sphinx-thebe``: it declares the same constant twice on each page (an
error in the browser's console) and points to scripts and a repository on other hosts.
The book is executed when it is built, so all of it is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
# What every page would load and none needs: icons as drawings, of which the style sheet has a font,
# and the index of words, which the search's own page loads.
ICONS = re.compile(r'<script defer src="[^"]*fontawesome\.js[^"]*"></script>')
INDEX = re.compile(r'<script src="[^"]*(searchtools|language_data|searchindex)\.js"></script>')
FOOTER = HERE / "_generated" / "footer.html"


def complete_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """Leave thebe's scripts out of the page's header, and say at its end what build it is of."""
    scripts = context.get("script_files", [])
    context["script_files"] = [script for script in scripts if not _is_thebe(script)]
    # Accessible names and roles that say what a reader sees: see axe's rules.
    wrong = r' (role="(list|doc-biblioentry)"|aria-label="Toggle hidden content")'
    context["body"] = re.sub(wrong, "", context.get("body", ""))
    home = context["pathto"]("index")
    footer = FOOTER.read_text(encoding="utf-8") if FOOTER.is_file() else ""
    context["theme_extra_footer"] = footer.replace("{home}", "" if home == "#" else home)


def _is_thebe(script: Any) -> bool:
    body = getattr(script, "attributes", {}).get("body") or ""
    return "thebe" in f"{getattr(script, 'filename', script)} {body}".lower()


def drop_settings(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Leave thebe's settings out of the page's body."""
    for node in list(doctree.findall(nodes.raw)):
        if "x-thebe-config" in node.astext() or "kernelName" in node.astext():
            node.parent.remove(node)


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Leave out of the pages 1.8 MB of scripts that the theme's templates load and do not use."""
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        light = ICONS.sub("", text)
        light = light if path.name == "search.html" else INDEX.sub("", light)
        if light != text:
            path.write_text(light, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks, after everyone else's."""
    app.config.html_search_scorer = str(HERE / "assets" / "search.js")
    app.config.templates_path.append(str(HERE / "assets"))  # theme-switcher.html
    app.connect("html-page-context", complete_page, priority=990)
    app.connect("doctree-resolved", drop_settings, priority=990)
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
