"""Every executed chapter gives the same outputs when nbval runs it again and compares.

Apart from test_book.py, because nbval's kernels listen on TCP ports, for which parallel ones race;
`make test` gives each file to one process.
"""

import subprocess
import sys

import contents
import pytest
from conftest import ROOT


@pytest.mark.parametrize("chapter", contents.chapters())
def test_runs_the_same_again(chapter, smoke):
    notebook = smoke(chapter)
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", str(notebook)]
    command += ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg"), "-q"]
    command += ["-p", "no:xdist", "-p", "no:cacheprovider", "--rootdir", str(notebook.parent)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=notebook.parent)
    assert done.returncode == 0, done.stdout[-6000:]
