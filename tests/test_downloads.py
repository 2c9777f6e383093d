"""What the download buttons give: plain Markdown, the files a chapter reads, notebooks that run."""

import ast
import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
import venv
import zlib
from importlib.util import find_spec
from pathlib import Path

import contents
import downloads
import jupytext
import nbformat
import pytest
import wheel
from odd_inputs import refused
from plain import Words, glued, links, plain

CHAPTERS = contents.chapters()
SITE = downloads.Site("markovscore-1.0-py3-none-any.whl", "https://book.example/")
HTML = contents.BUILD / "html"
ALONE = ("oism/spectra", "localdsm/pixels", "reproduction/differences")
WORDS = Words(
    {
        ":eq:`eq-a`": ("(3.2)", "../oism/spectra.html#equation-eq-a"),
        ":doc:`next one <estimator>`": ("next one", "estimator.html"),
        ":numref:`fig-a`": ("Figure 3.1", None),
    },
    {"equation-eq-b": "3.4", "ex-a": "3.1", "thm-a": "3.2", "fig-a": "3.1"},
    glued(
        {
            "data": {"x/text/plain": text},
            "metadata": {"scrapbook": {"name": n, "mime_prefix": "x/"}},
        }
        for n, text in {"seconds": "0.12345", "count": "100816", "name": "'two'"}.items()
    ),
)
TEXTS = {
    "by {eq}`eq-a` and {numref}`fig-a`": "by (3.2) and Figure 3.1",
    "the {doc}`next one <estimator>`": "the next one",
    "{glue:text}`seconds:.2f` s, {glue:text}`count:,d`, {glue:text}`name`": "0.12 s, 100,816, two",
    "{py:func}`~markovscore.simulate`": "`ms.simulate`",
    "code `{eq}` and ``a`b`` stay": "code `{eq}` and ``a`b`` stay",
    "(here)=\n## A title": "## A title",
    "$$\na = b\n$$ (eq-b)\n\nand $$c$$": "$$\na = b\n\\tag{3.4}\n$$\n\nand $$c$$",
    "```python\n{eq}`eq-a`\n```": "```python\n{eq}`eq-a`\n```",
    ":::{exercise} Why\n:label: ex-a\n\nShow {eq}`eq-a`.\n:::": (
        "**Exercise 3.1 (Why).**\n\nShow (3.2)."
    ),
    "```{solution} ex-a\n:class: dropdown\n\nSo.\n```": (
        "<details>\n<summary>Solution to Exercise 3.1</summary>\n\nSo.\n\n</details>"
    ),
    ":::{prf:theorem}\n:label: thm-a\n\nIt is.\n:::\n:::{prf:proof}\nSee.\n:::": (
        "**Theorem 3.2.**\n\nIt is.\n\n*Proof.* See."
    ),
    "```{admonition} At *once*\n:class: tip\n\n**A.** {eq}`eq-a`\n```": (
        '<div class="alert alert-info">\n\n**At *once***\n\n**A.** (3.2)\n\n</div>'
    ),
    "```{figure} assets/a.png\n:name: fig-a\n:alt: A line.\n\nOne.\n```": (
        "![A line.](attachment:a.png)\n\n*Figure 3.1.* One."
    ),
    "::::{grid} 1 2\n:::{grid-item-card} Read\n:link: x\nAll.\n:::\n::::": "* **Read**: All.",
    ":::{list-table}\n:header-rows: 1\n\n* - A\n  - B\n* - $|x|$\n  - {eq}`eq-a`\n:::": (
        "* $|x|$\n  * *B:* (3.2)"
    ),
    "```{raw} html\n<canvas></canvas>\n```\nText": "Text",
    'see <a class="c" href="claims.html#x">x</a>': "see x",
}


@pytest.mark.parametrize("source", TEXTS)
def test_as_jupyter_shows_it(source):
    assert plain(source, WORDS) == TEXTS[source]


def test_links_lead_to_the_site_if_it_has_an_address():
    words = Words(WORDS.roles, address="https://book.example/oism/other.html")
    spectra = "https://book.example/oism/spectra.html#equation-eq-a"
    assert plain("{eq}`eq-a`, {numref}`fig-a`", words) == f"[(3.2)]({spectra}), Figure 3.1"
    led = links('<a href="../a.html#x">x</a> <a href="https://y.org">y</a>', words)
    assert led == '<a href="https://book.example/a.html#x">x</a> <a href="https://y.org">y</a>'


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{eq}`eq-gone`", "expected a role that Sphinx resolves on its page, found {eq}`eq-gone`"),
        ("{glue:text}`gone:.1f`", "expected a value that a cell glues, found 'gone'"),
        (":::{tabs}\n:::", "expected a directive that it can show, found {tabs}"),
    ],
)
def test_what_has_no_translation_is_an_error(source, words):
    refused(words.replace("{", r"\{"), plain, source, WORDS, error=contents.BuildError)


def read(chapter):
    return jupytext.read(contents.page_path(chapter), fmt="md:myst")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_download_has_every_file_that_its_chapter_reads(chapter, tmp_path, monkeypatch):
    """Found by the syntax tree, not by the pattern that puts them in: every string that is the path
    of a file of the tree, or that leads out of the chapter's folder."""
    folder = contents.page_path(chapter).parent
    monkeypatch.setattr(downloads, "BUILD", tmp_path)  # where no run was made
    notebook = read(chapter)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    paths = {text for text in texts if "\n" not in text and text and len(text) < 200}
    named = {text for text in paths if (folder / text).is_file() or ".." in text.split("/")}
    named -= {"../measurements/bench_gpu.json"}  # a chapter that looks whether it is there
    named -= {f"../../{downloads.RUNS}"}  # a folder of the build, asked about below
    downloads.stand_alone(notebook, folder, "smoke", SITE)
    (first,) = [cell for cell in notebook.cells if cell.get("id") == "book-files"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert first is code[0]
    written = {}
    if named:
        written = json.loads(first.source.rpartition("write_book_files(")[2][:-1])
    assert {f"../{name}" for name in written} == named
    for name, data in written.items():
        assert zlib.decompress(base64.b85decode(data)) == (folder / ".." / name).read_bytes()
    assert not any('"../' in cell.source for cell in code)


def test_a_download_has_the_trainings_of_its_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "BUILD", tmp_path)
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    (tmp_path / "runs" / "smoke" / "board_local_0.json").write_text("the log")
    (tmp_path / "runs" / "smoke" / "board_other_0.json").write_text("not named")
    source = 'folder = "../../_build/runs/ci"\nname = "board_local_0"'
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    downloads.stand_alone(notebook, tmp_path, "smoke", SITE)
    first, second = notebook.cells
    files = json.loads(first.source.rpartition("write_book_files(")[2][:-1])
    (name,) = files
    assert name == "_build/runs/ci/board_local_0.json"
    assert zlib.decompress(base64.b85decode(files[name])) == b"the log"
    assert f'folder = "{downloads.FOLDER}/_build/runs/ci"' in second.source


def test_a_figure_has_its_caption_and_a_picture_comes_with_the_notebook():
    cells = [
        nbformat.v4.new_markdown_cell(":::{figure} assets/overview.png\n:name: fig-a\nHere\n:::"),
        nbformat.v4.new_code_cell("fig", metadata={"tags": ["hide-input"]}),
    ]
    cells[1].metadata["mystnb"] = {"figure": {"name": "fig-a", "caption": "By {eq}`eq-a`."}}
    notebook = nbformat.v4.new_notebook(cells=cells)
    downloads.as_jupyter_shows(notebook, WORDS)
    first, second, third = notebook.cells
    picture = base64.b64decode(first.attachments["overview.png"]["image/png"])
    assert picture == (contents.BOOK / "assets" / "overview.png").read_bytes()
    assert second.metadata.jupyter.source_hidden
    assert third.source == "*Figure 3.1.* By (3.2)."
    nbformat.validate(notebook)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An environment with all that this one has installed, except the package."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=find_spec("pip") is None)
    (installed,) = folder.glob("lib/*/site-packages")
    for path in installed.glob("setuptools*"):  # Python 3.11 brings an old one beside pip
        shutil.rmtree(path)
    (installed / "others.pth").write_text("\n".join(path for path in sys.path if "site-p" in path))
    return folder


@pytest.fixture
def execute(fresh, tmp_path):
    """Run a notebook there, in an empty folder, with an empty home and no index of packages."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    kept |= {"HOME": str(tmp_path), "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1"}
    python = fresh / "bin" / "python"

    def run(path):
        command = [python, "-m", "papermill", path.name, "out.ipynb", "--no-progress-bar"]
        done = subprocess.run(command, cwd=path.parent, env=kept, capture_output=True, text=True)
        return done.returncode, done.stderr

    yield run
    remove = [python, "-m", "pip", "uninstall", "--quiet", "--yes", "markovscore"]
    subprocess.run(remove, env=kept, capture_output=True)


@pytest.fixture
def served():
    """``served(folder)`` is the address of a folder."""
    servers = []

    def serve(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for server in servers:
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing."""

    def log_message(self, *_):
        pass


def test_the_first_cell_installs_the_wheel_of_the_site(execute, served, tmp_path):
    file = wheel.build_wheel(tmp_path / "html" / "_static").name
    folder = tmp_path / "empty"
    folder.mkdir()
    check = "import markovscore\nassert 'fresh' in markovscore.__file__, markovscore.__file__"
    for address, status in (("", 1), (served(tmp_path / "html"), 0)):
        source = downloads.first_cell(
            ["import markovscore", "import json"], downloads.Site(file, address)
        )
        cells = [nbformat.v4.new_code_cell(text) for text in (source, check)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, folder / "a.ipynb")
        found, said = execute(folder / "a.ipynb")
        assert (found, file in said) == (status, bool(status)), said
        assert ("beside this notebook, found neither" in said) == bool(status)


@pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="no site: run make book first")
def test_downloads_of_the_site_run_alone(execute, served, tmp_path):
    address, folder = served(HTML), tmp_path / "empty"
    folder.mkdir()
    (file,) = HTML.glob("_static/*.whl")
    for name in (f"_static/{file.name}", *(f"_sources/{chapter}.ipynb" for chapter in ALONE)):
        urllib.request.urlretrieve(address + name, folder / Path(name).name)
    for chapter in ALONE:
        status, said = execute(folder / f"{Path(chapter).name}.ipynb")
        assert status == 0, f"{chapter}: {said[-3000:]}"
    names = {Path(chapter).name + ".ipynb" for chapter in ALONE}
    assert {path.name for path in folder.iterdir()} == {
        *names,
        "out.ipynb",
        file.name,
        downloads.FOLDER,
    }
