"""Sphinx extension: buttons that view, edit and run a page where its repository lies.

The repository stands in ``_config.yml`` alone; while it is empty there, no page has these buttons.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

CONFIG = Path(__file__).resolve().parent / "_config.yml"
BINDER = "https://mybinder.org/v2/gh"  # builds what .binder/ says
COLAB = "https://colab.research.google.com/github"
NOTEBOOKS = "notebooks"  # the branch with the downloads, kept by .github/workflows/pages.yml


def buttons(url: str, branch: str, page: str, chapter: bool) -> list[dict[str, Any]]:
    """The groups of buttons of a page, as the theme's header shows them; none without ``url``."""
    if not url:
        return []
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
    if found is None:
        raise ExtensionError(
            "_config.yml, repository: url: expected https://github.com/<owner>/<name>, found "
            f"{url!r}; correct it, or leave it empty for a book without these buttons"
        )
    repository, file = found[1], f"{branch}/book/{page}.md"
    groups = [
        _group(
            "Repository",
            "fab fa-github",
            ("View source", "fas fa-code", f"https://github.com/{repository}/blob/{file}?plain=1"),
            ("Edit", "fas fa-pencil-alt", f"https://github.com/{repository}/edit/{file}"),
        )
    ]
    if chapter:
        notebook = f"{repository}/{branch}?urlpath=lab/tree/book/{page}.ipynb"
        colab = f"{COLAB}/{repository}/blob/{NOTEBOOKS}/{page}.ipynb"
        binder = ("Binder", "_static/images/logo_binder.svg", f"{BINDER}/{notebook}")
        rocket = _group(
            "Run", "fas fa-rocket", binder, ("Colab", "_static/images/logo_colab.png", colab)
        )
        groups.append(rocket)
    return groups


def _group(name: str, icon: str, *links: tuple[str, str, str]) -> dict[str, Any]:
    label = name.lower()
    return {
        "type": "group",
        "tooltip": name,
        "icon": icon,
        "label": f"{label}-buttons",
        "buttons": [
            {"type": "link", "text": text, "tooltip": text, "icon": image, "url": url}
            for text, image, url in links
        ],
    }


def add(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Add the buttons of a page of the book; generated indices have none."""
    if doctree is not None:
        where = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repository"]
        chapter = context.get("page_source_suffix") == ".ipynb"
        context["header_buttons"] += buttons(where["url"], where["branch"], pagename, chapter)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook, after the theme has begun its list."""
    app.connect("html-page-context", add, priority=505)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
