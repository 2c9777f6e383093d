"""Every chapter: text that survives a round trip, cells that run small, figures, claims, names."""

import ast
import json
import os
import re
import subprocess
import sys

import build
import contents
import jupytext
import ledger
import nbformat
import processes
import pytest
import reading
import run_chapter
import summary
import yaml
from conftest import ROOT
from jupytext.cli import jupytext as jupytext_cli
from odd_inputs import refused
from pages import is_about, load_items, named_items

PAGES = contents.toc_pages()
CHAPTERS = contents.chapters()
PROFILES = contents.profile_names()


each_chapter = pytest.mark.parametrize("chapter", CHAPTERS)


def read(chapter):
    return jupytext.read(contents.page_path(chapter), fmt="md:myst")


def cells(chapter, tag):
    return [cell for cell in read(chapter).cells if tag in cell.metadata.get("tags", [])]


@each_chapter
def test_round_trip(chapter):
    path = contents.page_path(chapter)
    status = jupytext_cli(["--test-strict", "--to", "ipynb", "--quiet", str(path)])
    assert not status, f"{chapter}: not in Jupytext's canonical form"


@each_chapter
def test_smoke(chapter, smoke):
    notebook = smoke(chapter)
    declared = [c for c in ledger.load_claims(contents.BOOK / "claims.yml") if c.chapter == chapter]
    assert ledger.verify({chapter: notebook}, declared, "smoke").problems == ()


@each_chapter
def test_parameters_are_literals(chapter):
    found = cells(chapter, "parameters")
    assert len(found) <= 1
    for node in ast.parse("".join(cell.source for cell in found)).body:
        assert isinstance(node, ast.Assign)
        ast.literal_eval(node.value)


@each_chapter
def test_figures_have_caption_name_and_alt_text(chapter):
    for cell in read(chapter).cells:
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure is not None:
            assert figure["name"].startswith("fig-")
            assert figure["caption"].strip()
            assert cell.metadata["mystnb"]["image"]["alt"].strip()


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_name_chapters_and_parameters_that_exist(profile):
    for chapter, overrides in contents.load_profile(profile).items():
        run_chapter.read_chapter(chapter, overrides)


def test_the_cell_of_a_profile_is_folded(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, "ab")))
    notebook.cells[1].metadata = {"tags": ["injected-parameters"], "papermill": {}}
    nbformat.write(notebook, tmp_path / "x.ipynb")
    run_chapter._normalise(tmp_path / "x.ipynb", {"seconds": 1.0})
    first, second = nbformat.read(tmp_path / "x.ipynb", as_version=4).cells
    assert first.metadata == {}
    assert set(second.metadata.tags) & reading.FOLDED
    assert set(second.metadata) == {"tags"}


def test_the_three_profiles_exist():
    assert {"smoke", "ci", "paper"} <= set(PROFILES)
    assert contents.load_profile("ci") == {}


def test_the_chapters_that_are_begun_first_exist():
    (names,) = re.findall(r'LONGEST = """(.*?)"""', (contents.BOOK / "Snakefile").read_text(), re.S)
    assert names.split() and set(names.split()) <= set(CHAPTERS)


def test_every_page_is_listed():
    paths = (path.relative_to(contents.BOOK) for path in contents.BOOK.rglob("*.md"))
    written = {path.with_suffix("").as_posix() for path in paths}
    assert written - {"profiles/README"} == set(PAGES)


def test_every_claim_belongs_to_a_chapter():
    for claim in ledger.load_claims(contents.BOOK / "claims.yml"):
        assert claim.chapter in CHAPTERS, claim.id


def test_every_statement_of_a_paper_is_about_an_item_of_it():
    items = load_items()
    for claim in ledger.load_claims(contents.BOOK / "claims.yml"):
        if claim.paper != "ours":
            assert any(is_about(claim, item) for item in items), claim.id


def test_every_citation_is_in_the_bibliography():
    known = set(re.findall(r"^@\w+\{(\w+),", (contents.BOOK / "references.bib").read_text(), re.M))
    for page in PAGES:
        text = contents.page_path(page).read_text()
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text):
            assert {key.strip() for key in keys.split(",")} <= known, page


def test_every_page_of_the_map_exists():
    items = yaml.safe_load((contents.BOOK / "reproduction" / "items.yml").read_text())
    pages = {name for item in items for name in item.get("where", []) if "/" in name}
    assert pages <= set(PAGES)
    assert len({(item["paper"], item["item"]) for item in items}) == len(items)


def test_items_are_found_in_a_claim():
    assert named_items("Examples 3, 4 and 7") == {"Example 3", "Example 4", "Example 7"}
    assert named_items("Figure 1 (OISM I)") == {"Figure 1"}
    assert named_items("Appendix (linear processes)") == {"Appendix"}
    assert named_items("abstract (faster training)") == {"Abstract"}
    assert named_items("summary (faster training)") == {"Summary"}
    assert named_items("classical (Stein 1981)") == set()


def test_what_is_not_there_is_explained():
    (chapter, *_) = [name for name in CHAPTERS if cells(name, "parameters")]
    for words, call, *arguments in (
        ("expected one of ci, paper, smoke, found 'huge'", contents.load_profile, "huge"),
        ("expected one of index.*found 'oism/nowhere'", contents.page_path, "oism/nowhere"),
        ("nonsense", run_chapter.read_chapter, chapter, {"nonsense": 1}),
    ):
        refused(words, call, *arguments, error=contents.BuildError)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["book/build.py", "--profile", "huge"], "profile: expected one of ci, paper, smoke"),
        (["book/run_chapter.py", "oism/nowhere", "--output", "x.ipynb"], "found 'oism/nowhere'"),
        (["book/run_chapter.py", "index", "--profile", "x", "--output", "x.ipynb"], "found 'x'"),
    ],
)
def test_the_command_line_explains(arguments, words):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("profile", ["ci", "paper"])
def test_the_summary_warns_of_a_chapter_over_its_budget(profile, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(summary, "BUILD", tmp_path)
    cpu_seconds = {"one": 149.0, "two": 151.0, "three": 3.0}
    (tmp_path / profile).mkdir()
    for name, cpu in cpu_seconds.items():
        metadata = {"markovscore": {"seconds": 200.0, "cpu_seconds": cpu}}
        seconds = [{"markovscore": {"seconds": i * cpu}} for i in range(8)]
        cells = [{"source": f"\n{name}_{i}\nmore", "metadata": m} for i, m in enumerate(seconds)]
        content = {"metadata": metadata, "cells": [{"source": "", "metadata": {}}, *cells]}
        (tmp_path / profile / f"{name}.ipynb").write_text(json.dumps(content))
    summary.show_times(profile, list(cpu_seconds))
    total, *shown = capsys.readouterr().out.splitlines()
    assert "303 s of CPU" in total
    assert [line.split()[-1] for line in shown[:3]] == ["two", "one", "three"]
    warnings = ["WARNING   two: expected at most 150 s of CPU, found 151 s"]
    more = shown[3:]
    assert [line for line in more if "WARNING" in line] == (warnings if profile == "ci" else [])
    slowest = [found[1] for line in more if (found := re.search(r" s \w+: (\w+)$", line))]
    assert slowest[:3] == ["two_7", "one_7", "two_6"] and len(slowest) == 10


def test_a_home_that_cannot_be_written_has_its_caches_in_the_build(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.caches() == {}
    monkeypatch.setenv("HOME", os.devnull)
    assert set(build.caches().values()) == {str(build.BUILD / "cache")}


def test_sockets_go_where_their_path_is_short_enough(monkeypatch, tmp_path):
    short, long = tmp_path.parents[-2], tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(processes.tempfile, "tempdir", str(long))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    assert processes.sockets_parent() == str(short)
    monkeypatch.setattr(processes.os, "access", lambda *_: False)
    words = "TMPDIR: expected .* at most 80 bytes"
    refused(words, processes.sockets_parent, error=contents.BuildError)
