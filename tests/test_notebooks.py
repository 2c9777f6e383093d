"""Every executed chapter gives the same outputs when nbval runs it again and compares.

Apart from test_book.py, because nbval's kernels listen on TCP ports, for which parallel ones race;
`make test` gives each file to one process.
"""

import os
import subprocess
import sys

import contents
import pytest
from conftest import ROOT


@pytest.mark.parametrize("chapter", contents.chapters())
def test_runs_the_same_again(chapter, smoke, shared_folder):
    notebook = smoke(chapter)
    runs = {"MARKOVSCORE_RUNS": str(shared_folder / "build" / "runs" / "smoke")}
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", str(notebook)]
    command += ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg"), "-q"]
    command += ["-p", "no:xdist", "-p", "no:cacheprovider", "--rootdir", str(notebook.parent)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=notebook.parent, env=os.environ | runs
    )
    assert done.returncode == 0, done.stdout[-6000:]
