"""The buttons that view, edit and run a page, and the environment that Binder builds for them."""

import os
import re
import subprocess

import contents
import pytest
import sphinx_buttons
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from sphinx.errors import ExtensionError
from test_project import EXTRAS, PROJECT, locked

URL = "https://github.com/someone/scores.of_x"
WHERE = {
    "View source": "https://github.com/someone/scores.of_x/blob/dev/book/oism/spectra.md?plain=1",
    "Edit": "https://github.com/someone/scores.of_x/edit/dev/book/oism/spectra.md",
    "Binder": "https://mybinder.org/v2/gh/someone/scores.of_x/dev"
    "?urlpath=lab/tree/book/oism/spectra.ipynb",
    "Colab": "https://colab.research.google.com/github/someone/scores.of_x/blob/notebooks"
    "/oism/spectra.ipynb",
}


@pytest.mark.parametrize("url", [URL, URL + "/", URL + ".git"])
def test_a_chapter_can_be_seen_edited_and_run(url):
    groups = sphinx_buttons.buttons(url, "dev", "oism/spectra", chapter=True)
    assert {b["text"]: b["url"] for group in groups for b in group["buttons"]} == WHERE
    (prose,) = sphinx_buttons.buttons(url, "dev", "oism/spectra", chapter=False)
    assert [button["text"] for button in prose["buttons"]] == ["View source", "Edit"]
    assert contents.page_path("oism/spectra") == ROOT / "book/oism/spectra.md"


def test_without_a_repository_there_is_no_button():
    assert sphinx_buttons.buttons("", "main", "oism/spectra", chapter=True) == []


@pytest.mark.parametrize("url", ["github.com/a/b", "https://github.com/a", "https://x.org/a/b"])
def test_another_address_is_explained(url):
    with pytest.raises(ExtensionError, match=r"expected https://github.com/<owner>/<name>, found"):
        sphinx_buttons.buttons(url, "main", "index", chapter=True)


def test_the_branch_of_colab_is_kept_by_the_workflow():
    jobs = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())["jobs"]
    last = jobs["notebooks"]["steps"][-1]["run"]
    assert f"--initial-branch {sphinx_buttons.NOTEBOOKS}\n" in last
    assert last.rstrip().endswith(f" {sphinx_buttons.NOTEBOOKS}")


def test_binder_has_all_that_the_chapters_need():
    """PyTorch from conda; all else in the versions of the lock, which is complete."""
    environment = yaml.safe_load((ROOT / ".binder/environment.yml").read_text())
    conda = {r.name: r.specifier for r in map(Requirement, environment["dependencies"][1:])}
    assert set(conda) == {"pip", "pytorch-cpu"}
    (torch,) = [r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch"]
    assert conda["pytorch-cpu"] == torch.specifier
    assert conda["pytorch-cpu"].contains(locked()["torch"])
    _, _, python = environment["dependencies"][0].partition("=")
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    needed = {Requirement(text).name for text in [*PROJECT["dependencies"], *EXTRAS["book"]]}
    needed -= {"markovscore", "torch"}  # the tree itself, and what conda brings
    assert needed <= set(locked())


def test_binders_script_installs_and_makes_every_chapter(tmp_path):
    """With a pip and a Jupytext that only write down what they are asked."""
    for name in ("python", "jupytext"):
        script = f'#!/bin/sh\necho {name} "$@" >> "{tmp_path}/called"\n'
        script += (
            f'for file; do case "$file" in */tmp*) cat "$file" >> "{tmp_path}/lock";; esac; done\n'
        )
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run([ROOT / ".binder" / "postBuild"], check=True, env=os.environ | {"PATH": path})
    packages, tree, notebooks = (tmp_path / "called").read_text().splitlines()
    assert "--no-deps -r" in packages and tree.endswith("--editable .")
    installed = {line.partition("==")[0] for line in (tmp_path / "lock").read_text().splitlines()}
    assert set(locked()) - installed == {"torch", "triton"}
    assert set(re.findall(r"book/([\w/]+)\.md", notebooks)) == set(contents.chapters())
