"""Every executed chapter gives the same outputs when nbval runs it again and compares.

Apart from test_book.py, because nbval's kernels listen on TCP ports, for which parallel ones race;
`make test` gives each file to one process.
"""

import contents
import processes
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def environment(shared_folder):
    """Forks of a process of their own: what depends on the addresses of one, such as the order of a
    set, is not the same in both executions."""
    build = shared_folder / "build"
    runs = {"MARKOVSCORE_RUNS": processes.environment(build, "smoke")["MARKOVSCORE_RUNS"]}
    with processes.forked(runs) as forks:
        yield runs | forks


@pytest.mark.parametrize("chapter", contents.chapters())
def test_runs_the_same_again(chapter, smoke, environment, monkeypatch, capsys):
    """A run of pytest inside this one: to import it, nbval and Jupyter for every chapter takes half
    a minute of CPU."""
    notebook = smoke(chapter)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(notebook.parent)
    arguments = ["--nbval", str(notebook), "-q", "--rootdir", str(notebook.parent)]
    arguments += ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg")]
    for plugin in ("xdist", "cacheprovider", "hypothesispytest"):
        arguments += ["-p", f"no:{plugin}"]
    assert pytest.main(arguments) == 0, capsys.readouterr().out[-6000:]
