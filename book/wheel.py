"""The package as a wheel, which the site serves and the downloaded notebooks install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from contents import ROOT, BuildError

BACKEND = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


def build_wheel(folder: Path) -> Path:
    """Build the wheel of ``src/`` into ``folder``; returns its path. The same tree gives the same
    bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", BACKEND, str(folder.resolve())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(
            "wheel: expected that pyproject.toml and src/ give a wheel, found:\n"
            f"{done.stderr[-2000:]}; correct them, or make the environment again"
        )
    return folder / done.stdout.split()[-1]
