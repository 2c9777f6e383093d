"""The build itself, on a book of two tiny chapters: what runs again, what fails, what is left.

The tree is the real one (Snakefile, scripts, configuration) with other chapters, in a folder whose
name the shell would not leave alone. The tests run in order, each from the state that the one
before left; that is what an incremental build is about.
"""

import fcntl
import hashlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import browser
import pdf
import pytest
import yaml
from conftest import ROOT

CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Chapter {name}

{box}
```{{code-cell}} ipython3
:tags: [hide-input]

from pathlib import Path

from IPython.display import display

ledger = Path("../claims.yml").read_text()
MIME = "application/vnd.markovscore.claim+json"
```

```{{code-cell}} ipython3
:tags: [parameters]

value = 0.5
wait = 0
busy = 0
```

```{{code-cell}} ipython3
:tags: [hide-input]

import time

time.sleep(wait)
while time.process_time() < busy:
    pass


def show(name, value, note):
    id = "one.{name}." + name
    record = {{"id": id, "value": value, "stderr": None, "note": note}}
    html = "<p>claim</p>"
    data = {{MIME: record, "text/plain": "claim", "text/html": html}}
    display(data, raw=True)


show("value", value, "")
show("extra", None, "no such data here")
```
"""
BOX = ":::{admonition} At a glance\nA question.\n:::\n"
CLAIM = {
    "paper": "A",
    "item": "Figure 1",
    "sentence": "The value is below one.",
    "quantity": "the value",
    "comparison": "<",
    "threshold": 1.0,
    "kind": "check",
}
NAMES = ("first", "second")
LOADED = '["torch._dynamo", "markovscore", "markovscore.figures", "matplotlib.pyplot"]'
FOLDER = "a \"tree\" 'of' $HOME `ls` [x] {y} (é) & 100%; \\"


class Book:
    """A working tree with its own ``_build``."""

    def __init__(self, root):
        self.root = root
        self.book = root / "book"
        (root / ".venv").symlink_to(sys.prefix)  # the interpreter's path has the folder's name
        self.python = root / ".venv" / Path(sys.executable).relative_to(sys.prefix)

    def call(self, script, *arguments, **variables):
        """A script of the tree, with the tree's own package."""
        environment = os.environ | {"PYTHONPATH": str(self.root / "src")} | variables
        command = [self.python, f"book/{script}", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True
        )

    def run(self, profile="ci", *options):
        done = self.call("build.py", "--profile", profile, "--cores", "2", *options)
        return done.returncode, done.stdout + done.stderr

    def chapters(self):
        """A build that ends with the chapters: no site, no ledger."""
        wanted = " ".join(f"ci/one/{name}.ipynb" for name in NAMES)
        return self.run("ci", f"--snakemake=-- {wanted}")

    def edit(self, name, old, new):
        path = self.root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / FOLDER
    root.mkdir()
    for name in ("_config.yml", "requirements.lock", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    (root / "book" / "one").mkdir(parents=True)
    for path in [*(ROOT / "book").glob("*.py"), ROOT / "book" / "Snakefile"]:
        shutil.copy(path, root / "book")
    shutil.copy(ROOT / "book" / "references.bib", root / "book")
    apart = shutil.ignore_patterns("playground")  # it needs the whole package
    shutil.copytree(ROOT / "book" / "assets", root / "book" / "assets", ignore=apart)
    write_package(root / "src" / "markovscore")
    write_pages(root)
    book = Book(root)
    book.edit("book/fork.py", *(f"IMPORTED = {names}" for names in (LOADED, "[]")))
    return book


def write_package(folder):
    """What the ledger takes from the package, without torch, which these chapters do not need."""
    (folder / "core").mkdir(parents=True)
    (folder / "__init__.py").write_text('__version__ = "0.0"\n')
    (folder / "core" / "__init__.py").write_text(
        "from .files import output_path, user_path, write_whole\n"
    )
    for name in ("claims.py", "core/files.py"):
        shutil.copy(ROOT / "src" / "markovscore" / name, folder / name)


def write_pages(root):
    home = "# Home\n\n```{include} /_generated/claims_summary.md\n```\n"
    pages = {"index": home + "\n(cite)=\n## How to cite\n\nThe footer's link ends here.\n"}
    included = "## Ledger\n\n"
    for name in ("papers", "checks"):
        included += f"```{{include}} /_generated/claims_{name}.md\n```\n"
    pages["reproduction/claims"] = f"# Ledger\n\n{BOX}\n{included}"
    pages |= {f"one/{name}": CHAPTER.format(name=name, box=BOX) for name in NAMES}
    for page, text in pages.items():
        (root / "book" / f"{page}.md").parent.mkdir(exist_ok=True)
        (root / "book" / f"{page}.md").write_text(text)
    listed = [{"file": page} for page in pages if page != "index"]
    toc = {"format": "jb-book", "root": "index", "parts": [{"caption": "P", "chapters": listed}]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    declared = [{"id": f"one.{name}.value", "chapter": f"one/{name}"} | CLAIM for name in NAMES]
    declared += [
        {"id": f"one.{name}.extra", "chapter": f"one/{name}", "needs": "photographs"} | CLAIM
        for name in NAMES
    ]
    (root / "book" / "claims.yml").write_text(yaml.safe_dump(declared))
    (root / "book" / "reproduction" / "items.yml").write_text("[]")
    (root / "book" / "profiles").mkdir()
    (root / "book" / "profiles" / "ci.yml").write_text("{}")
    (root / "book" / "profiles" / "large.yml").write_text("one/first: {value: 5.0}\n")


def ran(output):
    return {name for name in NAMES if f"one/{name}: running" in output}


def test_a_build_from_nothing(book):
    status, output = book.run()
    assert status == 0, output
    assert ran(output) == {"first", "second"}
    assert "2 of 2 executed" in output
    assert (
        "2 holds, 0 undecided, 0 does not hold, 0 defective, 0 missing, 0 not judged, 2 skipped (ci"
        in output
    )
    assert json.loads((book.root / "_build" / "claims.json").read_text())["ok"]
    page = (book.root / "_build" / "html" / "one" / "first.html").read_text()
    assert 'id="claim-one.first.value"' in page
    assert "reproduction/claims.html#one.first.value" in page
    assert "no such data here" in page and "not measured" in page
    ledger = (book.root / "_build" / "html" / "reproduction" / "claims.html").read_text()
    assert 'id="one.first.extra"' in ledger and "no such data here" in ledger
    assert '"../claims.yml"' in html.unescape(re.sub("<[^>]*>", "", page))
    sources = book.root / "_build" / "html" / "_sources"
    download = (sources / "one" / "first.ipynb").read_text()
    assert "markovscore-book/claims.yml" in download and "../claims.yml" not in download
    (wheel,) = sources.parent.glob("_static/*.whl")
    assert f'\\"markovscore\\": \\"{wheel.name}\\"' in download
    assert "4 checks (2 checked, 2 not measured here)" in (sources / "index.md").read_text()
    assert "one.first.extra" in (sources / "reproduction" / "claims.md").read_text()
    assert "mybinder" not in page and "Edit" not in page
    assert not (book.root / ".snakemake").exists()
    checked = book.call("check_site.py", "--browser", "none")
    assert checked.returncode == 0, checked.stderr
    assert "site: one/first: 4 words, 0 minutes, longest cell" in checked.stdout


def test_nothing_changed_nothing_runs(book):
    before = (book.root / "_build" / "html" / "index.html").stat().st_mtime_ns
    status, output = book.run()
    assert status == 0, output
    assert ran(output) == set()
    assert (book.root / "_build" / "html" / "index.html").stat().st_mtime_ns == before


def test_one_chapter_changed_and_addresses_set(book):
    book.edit("book/one/first.md", "# Chapter first", "# Chapter the first")
    book.edit("_config.yml", 'baseurl: ""', "baseurl: https://book.example/scores")
    book.edit("_config.yml", 'url: ""', "url: https://github.com/someone/scores")
    status, output = book.run()
    assert (status, ran(output)) == (0, {"first"}), output
    built = book.root / "_build" / "html"
    page = (built / "one" / "first.html").read_text()
    assert "the first" in page
    for address in (
        "https://github.com/someone/scores/edit/main/book/one/first.md",
        "https://mybinder.org/v2/gh/someone/scores/main?urlpath=lab/tree/book/one/first.ipynb",
        "https://colab.research.google.com/github/someone/scores/blob/notebooks/one/first.ipynb",
    ):
        assert f'href="{address}"' in page
    prose = (built / "index.html").read_text()
    assert "scores/edit/main/book/index.md" in prose and "mybinder" not in prose
    download = (built / "_sources" / "one" / "first.ipynb").read_text()
    assert "https://book.example/scores/_static/markovscore-" in download
    checked = book.call("check_site.py", "--browser", "none")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(browser.find_chromium() is None, reason="no Chromium (apt install chromium)")
def test_the_site_is_whole_on_paper(book):
    parts = [("", ["index"]), ("P", ["one/first", "reproduction/claims"])]
    html = book.root / "_build" / "html"
    content, faults = pdf.printed(browser.find_chromium(), html, "A book", parts)
    assert faults == []
    for title in (b"Home)", b"P)", b"Chapter ", b"Ledger)"):  # a test before may have changed one
        assert b"/Title (%b" % title in content


def test_the_site_again_from_an_archive_without_executing(book, tmp_path):
    packed = [book.call("archive.py", "pack") for _ in range(2)]
    assert [done.returncode for done in packed] == [0, 0], packed[0].stderr
    built, file = book.root / "_build", tmp_path / "book.zip"
    (path,) = built.glob("markovscore-book-0.0-ci.zip")
    shutil.copy(path, file)
    pages = {p.name: p.read_bytes() for p in built.glob("html/*/*.html")}
    built.rename(tmp_path / "build")
    done = book.call("archive.py", "site", str(file))
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in built.glob("html/*/*.html")} == pages
    again = book.call("archive.py", "pack")
    assert again.returncode == 0, again.stderr
    assert path.read_bytes() == file.read_bytes()
    for name in (path, built / "ci/one/first.ipynb"):
        name.write_bytes(name.read_bytes() + b" ")
    refused = book.call("archive.py", "site", str(file))
    assert "expected no other build in _build, found another _build/ci/one/first" in refused.stderr
    shutil.rmtree(built)
    (tmp_path / "build").rename(built)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda names: "", "expected a file, found none"),
        (lambda names: b"", "expected a whole zip .* found BadZipFile"),
        (lambda names: {"a.txt": b"a"}, "expected a whole zip .* found KeyError"),
        (lambda names: names | {"claims.yml": b"[]"}, "unchanged, found others: claims.yml; make"),
        (lambda names: names | {"../x": b"x"}, r"unchanged, found others: \.\./x; make it again"),
        (lambda names: forged(names, "files", {"../x": ""}), r"expected an archive complete.*\./x"),
        (
            lambda names: forged(names, "made_from", {"book/one/first.md": "0"}),
            "made from this tree, found others: book/one/first.md; check out the commit it is of",
        ),
    ],
)
def test_an_archive_that_is_not_whole_or_of_another_tree(book, tmp_path, damage, words):
    (path,) = (book.root / "_build").glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        content = damage({name: archive.read(name) for name in archive.namelist()})
    bad = tmp_path / "bad.zip"
    if isinstance(content, bytes):
        bad.write_bytes(content)
    elif content:
        with zipfile.ZipFile(bad, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    done = book.call("archive.py", "site", str(bad) if content != "" else "")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(words, done.stderr), done.stderr


def forged(names, key, change):
    """With another list in the manifest, and the files that it lists."""
    manifest = json.loads(names["manifest.json"])
    if key == "files":
        names |= dict.fromkeys(change, b"x")
        change = {name: hashlib.sha256(b"x").hexdigest() for name in change}
    manifest[key] |= change
    return names | {"manifest.json": json.dumps(manifest).encode()}


def test_the_package_changed(book):
    book.edit("src/markovscore/claims.py", "What a chapter measured", "What the chapter measured")
    status, output = book.chapters()
    assert (status, ran(output)) == (0, {"first", "second"}), output


def test_a_page_that_breaks_a_rule_is_named(book):
    """The site is there, as with a claim that fails; the exit status says that it is not right."""
    book.edit("book/reproduction/claims.md", "At a glance", "In short")
    status, output = book.run()
    assert (status != 0, ran(output)) == (True, set()), output
    assert 'book/reproduction/claims.md:1: expected an opening box "At a glance"' in output
    assert "In short" in (book.root / "_build/html/reproduction/claims.html").read_text()
    book.edit("book/reproduction/claims.md", "In short", "At a glance")


def test_a_profile_block_concerns_its_chapter(book):
    (book.book / "profiles" / "ci.yml").write_text("one/second: {value: 0.25}\n")
    status, output = book.chapters()
    assert (status, ran(output)) == (0, {"second"}), output


def test_a_claim_that_fails(book):
    status, output = book.run("large")
    assert status != 0
    assert "expected the value < 1, found 5 in one/first" in output
    ledger = (book.root / "_build" / "html" / "reproduction" / "claims.html").read_text()
    assert "verdict-fails" in ledger
    again, _ = book.run("large")
    assert again != 0  # still wrong, although nothing had to run


def test_the_site_is_of_the_profile_asked_for(book):
    book.edit("book/Snakefile", "touch {output}", "echo edited > {output}")
    status, output = book.run("ci")
    assert status == 0, output
    assert ran(output) == set()
    assert (
        "verdict-fails"
        not in (book.root / "_build" / "html" / "reproduction" / "claims.html").read_text()
    )


def test_an_edited_snakefile_is_read(book):
    """The build of the test before read it."""
    assert (book.root / "_build" / "site.done").read_text() == "edited\n"


def test_an_interrupted_build_resumes(book):
    (book.book / "profiles" / "ci.yml").write_text(
        "one/first: {value: 0.3}\none/second: {value: 0.25, wait: 60}\n"
    )
    command = [book.python, "book/build.py", "--profile", "ci", "--cores", "2"]
    with subprocess.Popen(
        command,
        cwd=book.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stdout:
            if "1 of 4 steps" in line:
                break
        os.killpg(process.pid, signal.SIGKILL)  # the hardest way: nobody tidies up
    (book.book / "profiles" / "ci.yml").write_text(
        "one/first: {value: 0.3}\none/second: {value: 0.25, wait: 0}\n"
    )
    status, output = book.chapters()
    assert (status, ran(output)) == (0, {"second"}), output


def test_two_builds_at_once(book):
    with (book.root / "_build" / "build.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        status, output = book.run()
    assert status != 0
    assert "lock: expected to be the only build of this working tree" in output
    assert "Traceback" not in output


def test_a_page_with_a_warning_fails(book):
    book.edit("book/index.md", "# Home", "# Home\n\n[broken](nowhere.md)")
    status, output = book.run()
    assert status != 0
    assert "nowhere" in output
    assert book.run()[0] != 0  # and it does not pass the second time
    book.edit("book/index.md", "\n\n[broken](nowhere.md)", "")  # the next test's builds pass


def test_a_chapter_that_fails_leaves_its_report(book):
    book.edit("book/one/first.md", "time.sleep(wait)", 'raise KeyError("lost")')
    status, output = book.run()
    assert status != 0
    assert "one/first: KeyError: 'lost'" in output
    assert "failed: one/first" in output
    report = book.root / "_build" / "errors" / "ci" / "one" / "first.ipynb"
    assert "KeyError" in report.read_text()
    book.edit("book/one/first.md", 'raise KeyError("lost")', "time.sleep(wait)")
    status, output = book.chapters()
    assert (status, ran(output)) == (0, {"first"}), output
    assert not report.exists()


def test_times_are_of_the_cpu_and_of_the_clock(book, tmp_path):
    """A chapter that is busy for a second of CPU, another that waits for two; in a temporary folder
    with more letters than the hundred or so of a socket's path."""
    (book.book / "profiles" / "times.yml").write_text(
        "one/first: {busy: 2}\none/second: {wait: 2}\n"
    )
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    took = {}
    for name in NAMES:
        options = [f"one/{name}", "--profile", "times", "--output", f"_build/times/{name}.ipynb"]
        done = book.call("run_chapter.py", *options, TMPDIR=str(folder))
        assert done.returncode == 0, done.stderr
        notebook = json.loads((book.root / "_build" / "times" / f"{name}.ipynb").read_text())
        took[name] = notebook["metadata"]["markovscore"]
    assert took["first"]["cpu_seconds"] >= 2
    assert took["second"]["seconds"] >= 2
    # The neighbour's CPU time has all that is not waiting: start of the kernel, Papermill.
    assert took["second"]["cpu_seconds"] < took["second"]["seconds"] - 2 * 0.9


@pytest.mark.parametrize(
    "command",
    [["build.py"], ["run_chapter.py", "one/first", "--output", "_build/x.ipynb"]],
    ids=lambda command: command[0],
)
def test_a_tree_that_cannot_be_written(book, command):
    """A file where the folder should be: root may write in any folder, but not in a file."""
    (book.root / "_build").rename(book.root / "built")
    (book.root / "_build").touch()
    done = book.call(*command)
    (book.root / "_build").unlink()
    (book.root / "built").rename(book.root / "_build")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "_build" in done.stderr and "expected a tree that can be read and written" in done.stderr


RUN = {"objective": "LocalDSM", "options": {"window": 0.3}, "seeds": [0]}


def trained(output):
    return set(re.findall(r"run (\w+): training", output))


def declare(book, **changes):
    """Two small trainings; the second chapter is to show the first of them."""
    declared = yaml.safe_load((ROOT / "book" / "runs.yml").read_text())
    settings = declared["settings"] | declared["profiles"]["smoke"]
    runs = {"shown": RUN | changes, "unseen": RUN}
    content = {"settings": settings, "profiles": {}, "runs": runs}
    (book.book / "runs.yml").write_text(yaml.safe_dump(content))


def test_a_long_training_is_a_job_of_the_graph(book):
    """Made once, before the chapter that names it, and again only when its own settings change."""

    def build(*more):
        only = ["--profile", "ci", "--cores", "2", "--snakemake=-- ci/one/second.ipynb"]
        done = book.call("build.py", *only, PYTHONPATH=str(ROOT / "src"))
        assert done.returncode == 0, done.stdout + done.stderr
        return trained(done.stderr), ran(done.stderr)

    declare(book)
    book.edit("book/one/second.md", "# Chapter second", "# Chapter second, of shown_0")
    assert build() == ({"shown_0"}, {"second"})
    book.edit("book/one/second.md", "of shown_0", "with shown_0")
    assert build() == (set(), {"second"})  # its prose trains nothing
    with (book.root / "src" / "markovscore" / "claims.py").open("a") as file:
        file.write("# another line\n")
    assert build() == (set(), {"second"})  # nor does code that trains nothing
    declare(book, options={"window": 0.2})
    assert build() == ({"shown_0"}, {"second"})
    (book.book / "profiles" / "ci.yml").write_text("{}")
    log = book.root / "_build" / "runs" / "ci" / "shown_0.json"
    entry = json.loads(log.read_text())
    log.write_text(json.dumps(entry | {"inputs": "0" * 64}))
    done = book.call("run_chapter.py", "one/second", "--output", "_build/x.ipynb")
    assert done.returncode != 0 and "found 000000000000" in done.stderr
    assert "make it: python book/run_training.py shown_0 --profile ci" in done.stderr
