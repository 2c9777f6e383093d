"""Every executed chapter gives the same outputs when nbval runs it again and compares.

Apart from test_book.py, because nbval's kernels listen on TCP ports, for which parallel ones race;
`make test` gives each file to one process.
"""

import os
import subprocess
import sys

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
        yield os.environ | runs | forks


@pytest.mark.parametrize("chapter", contents.chapters())
def test_runs_the_same_again(chapter, smoke, environment):
    notebook = smoke(chapter)
    command = [sys.executable, "-m", "pytest", "--nbval", str(notebook)]
    command += ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg"), "-q"]
    command += ["--rootdir", str(notebook.parent)]
    for plugin in ("xdist", "cacheprovider", "hypothesispytest"):
        command += ["-p", f"no:{plugin}"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=notebook.parent, env=environment
    )
    assert done.returncode == 0, done.stdout[-6000:]
