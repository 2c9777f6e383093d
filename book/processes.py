"""The process that runs a chapter's cells: its environment, and where many of them come from."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contents import BOOK, BuildError

LONGEST_PARENT = 80  # bytes; a socket's whole path may have 103 (macOS) or 107 (Linux)
INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # another shows no figures


def environment(build: Path, profile: str) -> dict[str, str]:
    """The environment of a kernel: one thread, this virtual environment, no personal settings."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    return threads | {
        "PYTHONHASHSEED": "0",
        "MARKOVSCORE_RUNS": str(build / "runs" / profile),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(build / "ipython"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def sockets_parent() -> str:
    """The temporary folder, or another one where its path is too long for a socket's."""
    folders = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp")
    for folder in folders:
        if len(os.fsencode(folder)) <= LONGEST_PARENT and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise BuildError(
        f"TMPDIR: expected a folder to write in with a path of at most {LONGEST_PARENT} bytes, for "
        f"the kernel's sockets, found {folders[0]} and no /tmp; set TMPDIR to a shorter path"
    )


@contextmanager
def forked(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Kernels that start in no time: forks of one process that has imported torch, see ``fork.py``.

    They are what Jupyter starts as ``python3`` while the variables that this yields are set; there
    are none where libraries do not bear a fork. ``environment`` is of the process that is forked:
    the number of threads and the hash seed cannot change in a fork.
    """
    if sys.platform != "linux":
        yield {}
        return
    script = str(BOOK / "fork.py")
    with tempfile.TemporaryDirectory(prefix="forks-", dir=sockets_parent()) as folder:
        address, kernel = f"{folder}/s", Path(folder, "kernels", "python3")
        argv = [sys.executable, "-IS", script, address, "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3 (ipykernel)", "language": "python"}
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps(spec))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            command = [sys.executable, script]
            origin = subprocess.Popen(
                command, stdin=listener.fileno(), env=os.environ | environment
            )
        try:
            yield {"JUPYTER_PATH": folder}
        finally:
            origin.kill()
            origin.wait()
