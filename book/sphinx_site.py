"""Sphinx extension of the book: pages without live-code scripts, links into the reference.

Jupyter Book always loads ``sphinx-thebe``: it declares the same constant twice on each page (an
error in the browser's console) and points to scripts and a repository on other hosts.
The book is executed when it is built, so all of it is left out.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def drop_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """Leave thebe's scripts out of the page's header."""
    scripts = context.get("script_files", [])
    context["script_files"] = [script for script in scripts if not _is_thebe(script)]


def _is_thebe(script: Any) -> bool:
    body = getattr(script, "attributes", {}).get("body") or ""
    return "thebe" in f"{getattr(script, 'filename', script)} {body}".lower()


def drop_settings(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Leave thebe's settings out of the page's body."""
    for node in list(doctree.findall(nodes.raw)):
        if "x-thebe-config" in node.astext() or "kernelName" in node.astext():
            node.parent.remove(node)


def link_public_name(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.TextElement
) -> nodes.Element | None:
    """Resolve ``markovscore.diffusions.Diffusion`` to ``markovscore.Diffusion``.

    Annotations name the module that defines a class; the reference lists it where users import it.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("markovscore."):
        return None
    domain, parts = env.get_domain("py"), target.split(".")
    for skipped in range(2, len(parts)):
        public = ".".join(["markovscore", *parts[skipped:]])
        found = domain.resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], public, node, content
        )
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks, after everyone else's."""
    app.connect("html-page-context", drop_scripts, priority=990)
    app.connect("doctree-resolved", drop_settings, priority=990)
    app.connect("missing-reference", link_public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
