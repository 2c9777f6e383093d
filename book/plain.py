"""MyST Markdown as the Markdown that Jupyter shows: the text of a downloaded notebook.

Roles become the words that stand for them on the page (``sphinx_words.py`` kept them), directives
become paragraphs, equations keep their numbers. What has no translation here is an error.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any
from urllib.parse import urljoin

from contents import BuildError
from myst_nb.ext.glue.roles import format_plain_text

INLINE = re.compile(r"\{(?P<role>[\w:-]+)\}`(?P<text>[^`]+)`|(?P<ticks>`+)[^`].*?(?P=ticks)", re.S)
EQUATION = re.compile(r"\$\$(?P<formula>(?:(?!\$\$).)*?)\$\$ \((?P<label>[\w:-]+)\)", re.S)
TARGET = re.compile(r"^\([\w-]+\)=\n?", re.M)
LINK = re.compile(r'<a\b[^>]*\bhref="(?P<address>[^"]*)"[^>]*>(?P<text>.*?)</a>', re.S)
FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})(?:\{(?P<name>[\w:-]+)\})? *(?P<argument>.*)$")
OPTION = re.compile(r"^:([\w-]+): *(.*)$")
ROWS = re.compile(r"^\* - ", re.M)
CODE = {"func", "class", "meth", "py:func", "py:class", "py:meth"}  # named in the package
UNSHOWN = {"raw", "toctree"}  # what only a page can show


@dataclass(frozen=True)
class Words:
    """What a page's references read: role as written -> words and address, label -> number, name of
    a glued value -> its text. ``address`` is the page's own, where the site has one."""

    roles: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    glued: Mapping[str, str] = field(default_factory=dict)
    address: str = ""

    def role(self, name: str, content: str) -> str:
        """The words that stand for a role."""
        if name == "glue:text":
            return self.value(content)
        if name in CODE:
            return f"`{content.lstrip('~').replace('markovscore.', 'ms.')}`"
        if (written := self.roles.get(f":{name}:`{content}`")) is None:
            raise BuildError(
                f"a download: expected a role that Sphinx resolves on its page, found {{{name}}}"
                f"`{content}`; correct it, or translate it in book/plain.py"
            )
        return self.link(*written)

    def link(self, text: str, address: str | None) -> str:
        """A link where the site has an address, else the text alone."""
        return f"[{text}]({urljoin(self.address, address)})" if self.address and address else text

    def value(self, content: str) -> str:
        """A glued value, with the format that may follow its name."""
        name, _, spec = content.partition(":")
        if name not in self.glued:
            raise BuildError(
                f"a download: expected a value that a cell glues, found {name!r}; glue it, or "
                "correct the name"
            )
        return format_plain_text(self.glued[name], spec or "s")


def plain(source: str, words: Words) -> str:
    """The source of a cell, or of what a directive holds, as Markdown without roles or
    directives."""
    parts: list[str] = []
    prose: list[str] = []
    lines = iter(source.split("\n"))
    for line in lines:
        if (opening := FENCE.match(line)) is None:
            prose.append(line)
            continue
        closing = opening["fence"]
        body = list(takewhile(lambda row, end=closing: row.rstrip() != end, lines))
        parts.append(_sentences("\n".join(prose), words))
        prose = []
        if opening["name"]:
            parts.append(_directive(opening["name"], opening["argument"], body, words))
        else:
            parts.append("\n".join([line, *body, closing]))
    parts.append(_sentences("\n".join(prose), words))
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def _sentences(text: str, words: Words) -> str:
    def shown(match: re.Match[str]) -> str:
        return words.role(match["role"], match["text"]) if match["role"] else match[0]

    def numbered(match: re.Match[str]) -> str:
        number = words.numbers[f"equation-{match['label']}"]
        return f"$${match['formula'].rstrip()}\n\\tag{{{number}}}\n$$"

    text = EQUATION.sub(numbered, TARGET.sub("", text))
    return links(INLINE.sub(shown, text), words)


def links(text: str, words: Words) -> str:
    """HTML whose links lead to the site; where it has no address, no further than the notebook."""

    def led(match: re.Match[str]) -> str:
        if "://" in match["address"]:
            return match[0]
        if not words.address:
            return match["text"]
        address = urljoin(words.address, html.unescape(match["address"]))
        return f'<a href="{html.escape(address)}">{match["text"]}</a>'

    return LINK.sub(led, text)


def _directive(name: str, argument: str, lines: list[str], words: Words) -> str:
    options: dict[str, str] = {}
    while lines and (option := OPTION.match(lines[0])):
        options[option[1]] = option[2]
        lines = lines[1:]
    body = "\n".join(lines).strip("\n")
    kind = name.removeprefix("prf:")
    if kind in UNSHOWN:
        return ""
    if kind == "list-table":
        return "\n".join(_rows(body, "header-rows" in options, words))
    title, body = _sentences(argument, words), plain(body, words)
    match kind:
        case "admonition":
            return f'<div class="alert alert-info">\n\n**{title}**\n\n{body}\n\n</div>'
        case "solution":
            of = f"Solution to Exercise {words.numbers[argument.strip()]}"
            return f"<details>\n<summary>{of}</summary>\n\n{body}\n\n</details>"
        case "proof":
            return f"*Proof.* {body}"
        case "exercise" | "definition" | "lemma" | "proposition" | "theorem" | "algorithm":
            number = words.numbers[options["label"]]
            named = f" ({title})" if title else ""
            return f"**{kind.capitalize()} {number}{named}.**\n\n{body}"
        case "figure":
            file = argument.rpartition("/")[2]
            caption = figure(options.get("name", ""), body, words)
            return f"![{options.get('alt', '')}](attachment:{file})\n\n{caption}"
        case "grid" | "div":
            return body
        case "grid-item-card":
            return f"* **{title}**: {body}"
    raise BuildError(
        f"a download: expected a directive that it can show, found {{{name}}}; translate it in "
        "book/plain.py"
    )


def figure(label: str, caption: str, words: Words) -> str:
    """A figure's caption, with its number, as it stands under the picture."""
    return f"*Figure {words.numbers[label]}.* {caption}"


def _rows(body: str, header: bool, words: Words) -> list[str]:
    """A ``list-table`` as a list: its cells may hold what no cell of a Markdown table may."""
    rows = [re.split(r"^  - ?", row.strip("\n"), flags=re.M) for row in ROWS.split(body)[1:]]
    cells = [[_sentences(cell.strip(), words) for cell in row] for row in rows]
    names = cells.pop(0) if header else [""] * len(cells[0])
    return [
        "\n".join(
            [f"* {row[0]}", *(f"  * *{n}:* {c}" for n, c in zip(names[1:], row[1:], strict=True))]
        )
        for row in cells
    ]


def glued(outputs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The values that some outputs glue, as text."""
    found = {}
    for output in outputs:
        if kept := output.get("metadata", {}).get("scrapbook"):
            text = output["data"].get(kept["mime_prefix"] + "text/plain", "")
            found[kept["name"]] = "".join(text)
    return found
