"""What would be published: the sdist, the wheel made from it, and what they say of themselves."""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from urllib.parse import unquote

import pytest
import yaml
from conftest import ROOT
from packaging.version import Version
from test_project import PAGES, PROJECT, tracked_text

import markovscore

README = PAGES["README.md"]
NAME = f"markovscore-{markovscore.__version__}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The names and contents of the sdist and of the wheel, which is built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert {path.name for path in out.iterdir()} == {
        f"{NAME}.tar.gz",
        f"{NAME}-py3-none-any.whl",
    }
    with tarfile.open(out / f"{NAME}.tar.gz") as file:
        sdist = {name.removeprefix(f"{NAME}/") for name in file.getnames()}
    with zipfile.ZipFile(out / f"{NAME}-py3-none-any.whl") as file:
        wheel = {name: file.read(name) for name in file.namelist()}
    return sdist, wheel


def test_the_sdist_has_every_file_of_the_project(built):
    sdist, _ = built
    tracked = {name for name, _ in tracked_text()}
    assert tracked - sdist == set()
    assert "book/assets/overview.png" in sdist
    assert [name for name in sdist if name.startswith((".venv", "_build"))] == []


def test_the_wheel_has_the_package_and_nothing_else(built):
    _, wheel = built
    package = (ROOT / "src").rglob("*")
    files = {
        path.relative_to(ROOT / "src").as_posix(): path.read_bytes()
        for path in package
        if path.is_file() and not {"__pycache__", "markovscore.egg-info"} & set(path.parts)
    }
    info = f"{NAME}.dist-info"
    own = {name: data for name, data in wheel.items() if not name.startswith(info)}
    assert own == files
    assert {"markovscore/py.typed", "markovscore/datasets/protein_angles.csv"} <= set(own)
    assert wheel[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_metadata_is_the_projects(built):
    _, wheel = built
    metadata = BytesParser().parsebytes(wheel[f"{NAME}.dist-info/METADATA"])
    assert metadata["Name"] == "markovscore"
    assert metadata["Version"] == markovscore.__version__
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == PROJECT["license"]
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    names = {re.match(r"[\w-]+", line)[0] for line in needed}
    assert names == {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}
    assert metadata.get_payload(decode=True).decode() == README


def test_one_version_one_licence_and_one_title():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    assert PROJECT["dynamic"] == ["version"]  # src/markovscore/__init__.py has it
    assert citation["version"] == zenodo["version"] == markovscore.__version__
    assert PROJECT["license"] == citation["license"] == zenodo["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert citation["title"] == zenodo["title"]
    assert [author["name"] for author in citation["authors"]] == [
        creator["name"] for creator in zenodo["creators"]
    ]
    assert citation["keywords"] == zenodo["keywords"]


def test_the_changelog_is_in_order():
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[([\d.]+)\] - \d{4}-\d\d-\d\d", head)[1] for head in heads[1:]]
    assert released == sorted(released, key=Version, reverse=True)
    assert all(Version(version) <= Version(markovscore.__version__) for version in released)


def test_addresses_are_the_same_wherever_they_stand():
    """The site's, in ``_config.yml``; as long as it is not set, none is named."""
    site = yaml.safe_load((ROOT / "_config.yml").read_text()).get("repository", {}).get("url")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["urls"].get("Repository") == citation.get("repository-code") == (site or None)
    (picture,) = re.findall(r"!\[Data, .*\]\((.*)\)", README)
    assert picture.startswith("https://") == bool(site)  # the index shows no relative one


def test_badges_are_true():
    badges = re.findall(r"\((https://img\.shields\.io/badge/[^)]*)\)", README)
    made = [unquote(badge.rpartition("/")[2]).rpartition("-")[0] for badge in badges]
    pythons = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    papers = [u.rpartition("/")[2] for u in PROJECT["urls"].values() if "arxiv.org" in u]
    expected = [f"python-{'_|_'.join(pythons)}", f"licence-{PROJECT['license']}"]
    assert made == expected + [f"arXiv-{paper}" for paper in papers]
    tried = "\n".join((ROOT / ".github/workflows/ci.yml").read_text().split())
    assert ".ci/package\n" + "\n".join(f"python{version}" for version in pythons) in tried


def workflows():
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        yield path.name, yaml.load(path.read_text(), yaml.BaseLoader)  # "on" is no boolean there


def test_the_workflows_call_what_there_is_with_the_least_permissions():
    called = {}
    for name, workflow in workflows():
        assert workflow["permissions"] == {"contents": "read"}
        called[name] = set()
        for job in workflow["jobs"].values():
            called[name] |= {job["uses"]} if "uses" in job else set()
            called[name] |= {step.get("run", "").split(" ")[0] for step in job.get("steps", [])}
            for step in job.get("steps", []):
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d[\d.]*", step.get("uses", "a/a@v1"))
    assert {".ci/run", ".ci/package"} <= called["ci.yml"]
    for name in ("pages.yml", "release.yml"):
        assert "./.github/workflows/ci.yml" in called[name]
    for name in (".ci/run", ".ci/package"):
        assert (ROOT / name).stat().st_mode & 0o111


def test_a_job_that_may_write_runs_nothing_of_the_tree():
    writing = []
    for name, workflow in workflows():
        for job, content in workflow["jobs"].items():
            if "write" in content.get("permissions", {}).values():
                writing.append(f"{name} {job}")
                uses = [step.get("uses", "") for step in content["steps"]]
                assert not any(use.startswith("actions/checkout@") for use in uses), job
    pages, release = ("deploy", "notebooks"), ("index", "release")
    assert writing == [
        *(f"pages.yml {job}" for job in pages),
        *(f"release.yml {job}" for job in release),
    ]
