"""``make book``: Snakemake on ``book/Snakefile``, one build of a working tree at a time.

Exit status 0 only if every chapter ran, every page was built without a warning and every claim
holds.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from contents import BOOK, BUILD, BuildError, chapters, explained, load_profile
from processes import INLINE, environment, forked


def caches() -> dict[str, str]:
    """Where programs keep what they may lose, if the home folder (of a container) is read-only."""
    with suppress(OSError, RuntimeError):  # Path.home() raises it for a user without a home
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        usual.mkdir(parents=True, exist_ok=True)
        if os.access(usual, os.W_OK):
            return {}
    return {name: str(BUILD / "cache") for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR")}


def build(profile: str, cores: int, flags: list[str]) -> int:
    """Run the graph, with ``_build/build.lock`` held: the system frees it when the process dies.

    Snakemake's own lock would outlive a build that is killed. It reads a copy of the Snakefile,
    which it finds by path alone: a copy that outlived its build would hide an edit.
    """
    load_profile(profile)
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "build.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildError(
                "lock: expected to be the only build of this working tree, found another running; "
                "wait for it or stop it"
            ) from error
        os.environ.update(caches())
        from snakemake.cli import main as snakemake  # reads these variables when imported

        print(f"{len(chapters())} chapters, {profile} profile", flush=True)
        copies = BUILD / "snakemake-cache"
        shutil.rmtree(copies, ignore_errors=True)
        command = ["--snakefile", str(BOOK / "Snakefile"), "--directory", str(BUILD)]
        command += ["--config", f"profile={profile}", "--cores", str(cores), "--nolock"]
        command += ["--rerun-incomplete", "--keep-going", "--scheduler", "greedy"]
        command += ["--runtime-source-cache-path", str(copies)]
        command += ["--quiet", "host", "reason", "rules", *flags]
        with forked(environment(BUILD, profile) | INLINE) as variables:
            os.environ.update(variables)
            return sys.exit(snakemake(command))  # it exits by itself


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="ci", help="a file of book/profiles")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="chapters at once")
    parser.add_argument("--snakemake", default="", help="more options for Snakemake, one string")
    options = parser.parse_args()
    flags = shlex.split(options.snakemake)
    return explained(lambda: build(options.profile, options.cores, flags))


if __name__ == "__main__":
    raise SystemExit(main())
