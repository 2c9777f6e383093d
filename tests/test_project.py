"""The files that describe the project agree with each other, and what their pages say runs."""

import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions

import ledger
import pytest
import torch
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import markovscore

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK_LINES = (ROOT / "requirements.lock").read_text().splitlines()
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}
CODE = [
    pytest.param(code, id=f"{name} {i}")
    for name, text in PAGES.items()
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]


def locked():
    requirements = (line.partition(" ;")[0].split("==") for line in LOCK_LINES)
    return {canonicalize_name(name): version for name, version in requirements}


def declared():
    extras = ("plot", "images", "book", "test", "bench", "dev")
    names = PROJECT["dependencies"] + [name for extra in extras for name in EXTRAS[extra]]
    return [Requirement(text) for text in names if not text.startswith("markovscore[")]


def test_the_lock_is_exact_portable_complete_and_installed():
    names = [line.split("==")[0] for line in LOCK_LINES]
    assert sorted(names) == names
    exact = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+( ; sys_platform == \"linux\")?")
    assert [line for line in LOCK_LINES if not exact.fullmatch(line)] == []
    versions = locked()
    assert [name for name in versions if re.match("nvidia|cuda", name)] == []  # no GPU
    for wanted in declared():
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), wanted
    here = {canonicalize_name(d.name): d.version.split("+")[0] for d in distributions()}
    wrong = {name: here.get(name) for name, v in versions.items() if here.get(name) != v}
    assert not wrong, f"expected the lock's versions, found {wrong}; run `make test`"


def test_triton_is_one_version_for_the_gpu_and_for_the_tests():
    (wanted,) = [text for text in EXTRAS["test"] if text.startswith("triton")]
    assert EXTRAS["gpu"] == [wanted]
    assert "triton" not in [Requirement(text).name for text in PROJECT["dependencies"]]


# Half a second of imports, needed by a few functions or by the book alone.
LATE = {
    "IPython", "PIL", "datasets", "filelock", "matplotlib", "pandas", "pyarrow", "requests",
    "scipy.integrate", "scipy.interpolate", "scipy.linalg", "scipy.optimize", "scipy.sparse",
    "scipy.special", "scipy.stats", "sklearn", "yaml",
}  # fmt: skip


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_loads_what_every_user_needs():
    """Beyond ``import torch``; ``figures`` and ``claims`` come when they are asked for."""
    code = """
import sys, torch
before = set(sys.modules)
import markovscore as ms
print(*set(sys.modules) - before)
print(ms.claims.__name__)
"""
    *loaded, name = in_a_new_process(code)
    assert "markovscore.spectral" in loaded
    assert LATE & set(loaded) == set()
    assert {"markovscore.figures", "markovscore.claims"} & set(loaded) == set()
    assert name == "markovscore.claims"


def test_figures_without_matplotlib_name_the_fix():
    code = """
import sys
sys.modules["matplotlib"] = None  # as if it were not installed
import markovscore as ms
try:
    ms.figures
except ModuleNotFoundError as error:
    print(error)
"""
    message = " ".join(in_a_new_process(code))
    assert "expected matplotlib, found" in message
    assert "pip install 'markovscore[plot]'" in message


def test_conda_takes_its_versions_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip["pip"] == ["-r requirements.lock", "-e ."]
    (python,) = [Requirement(text) for text in conda if text.startswith("python")]
    assert str(python.specifier) == PROJECT["requires-python"]
    assert {"make", "pip"} <= set(conda)


@pytest.mark.parametrize("code", CODE)
def test_the_code_of_the_pages_runs(code):
    names = {}
    exec(compile(code, "page", "exec"), names)
    stated = re.findall(r"^(\w+) = .*# \(([\d, ]+)\)$", code, re.MULTILINE)
    assert stated, "expected a line `name = ...  # (shape)`"
    for name, shape in stated:
        assert names[name].shape == tuple(int(n) for n in shape.split(",") if n.strip())
        assert torch.as_tensor(names[name]).isfinite().all()


def test_the_first_example_is_ten_lines():
    (code,) = CODE[0].values
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_a_claim_is_declared_as_contributors_are_told(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGES["CONTRIBUTING.md"], re.DOTALL)
    (tmp_path / "claims.yml").write_text(block)
    (claim,) = ledger.load_claims(tmp_path / "claims.yml")
    assert claim.id == "part.chapter.name" and claim.kind == "check"


@pytest.mark.parametrize("text", PAGES.values(), ids=PAGES)
def test_the_pages_name_files_that_exist(text):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    paths = re.findall(r"`((?:src|book|tests)/[\w/.]+\.\w+|\.\w+\.json|[A-Z]+\.\w+)`", text)
    assert links + paths
    for target in links + paths:
        assert (ROOT / target).is_file(), target


def test_help_lists_every_command():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    commands = {line.split()[1] for line in shown.stdout.splitlines() if line.startswith("make ")}
    expected = "book archive site pdf test test-gpu bench bench-gpu serve lint lock clean help"
    assert commands == set(expected.split())
    texts = [*PAGES.values(), *(p.read_text() for p in (ROOT / ".ci").iterdir())]
    for text in texts:
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= commands


def test_an_environment_copied_with_its_tree_is_made_again(tmp_path):
    """It would run the other tree's src/, where the package is installed from."""
    (tmp_path / ".venv").mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shown = {}
    for place in (tmp_path, ROOT):
        (tmp_path / ".venv" / ".ready").write_text(f"{place.resolve()}\n")
        command = ["make", "--dry-run", "lint"]
        shown[place] = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "--editable" in shown[ROOT]
    assert "--editable" not in shown[tmp_path] and "lint_chapters" in shown[tmp_path]


def test_the_reference_has_every_public_name():
    page = (ROOT / "book" / "api.md").read_text()
    listed = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)", page, re.MULTILINE))
    for name in markovscore.__all__:
        thing = getattr(markovscore, name)
        expected = f"markovscore.{name}" if inspect.ismodule(thing) else name
        assert expected in listed or name == "datasets", f"{name} is missing from book/api.md"
        assert inspect.getdoc(thing), f"{name} has no docstring"


def tracked_text():
    command = shlex.split("git ls-files --cached --others --exclude-standard")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git working tree")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix not in {".png", ".ico", ".safetensors"}:
            yield name, path.read_text(encoding="utf-8")


def test_no_file_names_a_machine():
    home = re.compile(r"/(home|root|Users|work|tmp)/\w")
    assert [name for name, text in tracked_text() if home.search(text)] == []
