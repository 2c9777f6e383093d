"""Sphinx extension: what each reference reads on its page, kept for the downloads.

Sphinx alone knows what stands for ``{eq}`eq-semigroup``` or ``{cite}`bakry2014```, and the numbers
of equations, figures and theorems. It leaves them in ``words.json``, beside its doctrees.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

NAME = "words.json"


def mark(app: Sphinx, doctree: nodes.document) -> None:
    """Put each role that refers to something into a node that knows how it was written."""
    for reference in list(doctree.findall(pending_xref)):
        if reference.rawsource.startswith(":"):
            marked = nodes.inline(words=reference.rawsource)
            reference.replace_self(marked)
            marked += reference


def collect(
    roles: dict[str, dict[str, Any]], app: Sphinx, doctree: nodes.document, docname: str
) -> None:
    """Read what the roles became, with their addresses, and take the nodes away."""
    for marked in list(doctree.findall(nodes.inline)):
        if "words" in marked:
            links = [link["refuri"] for link in marked.findall(nodes.reference) if "refuri" in link]
            written = (marked.astext(), links[0] if links else None)
            roles.setdefault(docname, {})[marked["words"]] = written
            marked.replace_self(marked.children)


def write(roles: dict[str, dict[str, Any]], app: Sphinx, error: Exception | None) -> None:
    """Keep the roles and the numbers of each page."""
    if error is None and app.builder.name == "html":
        numbers = {
            page: {
                id: ".".join(map(str, number))
                for ids in kinds.values()
                for id, number in ids.items()
            }
            for page, kinds in app.env.toc_fignumbers.items()
        }
        text = json.dumps({"roles": roles, "numbers": numbers}, indent=1, sort_keys=True)
        Path(app.doctreedir, NAME).write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks: the collection comes after everyone else's."""
    roles: dict[str, dict[str, Any]] = {}
    app.connect("doctree-read", mark)
    app.connect("doctree-resolved", partial(collect, roles), priority=995)
    app.connect("build-finished", partial(write, roles))
    return {"parallel_read_safe": True, "parallel_write_safe": False}
