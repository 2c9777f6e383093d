"""``make book``: run the Snakefile, then say what was built, what holds, and how long it took.

Exit status 0 only if every chapter ran, every page was built without a warning and every claim
holds.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from contents import BOOK, BUILD, ROOT, BuildError, chapters, explained, load_profile

BUDGETS = {"ci": 150}  # seconds of CPU for a chapter; a profile not named here has no budget

# Lines that tell a reader nothing; whatever is not listed here is shown.
NOISE = re.compile(
    r"\s*$|Select jobs|Execute \d+ jobs|\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\]|Finished jobid|host:"
    r"|Elapsed time|RuleException|CalledProcessError in|Command 'set -euo|\[IPKernelApp\] WARNING"
    r"|Exiting because|WorkflowError|At least one job|Nothing to be done|Assuming unrestricted"
    r"|Building DAG|Using shell|Rules claiming|Job stats|job +count|-+ +-+|Complete log"
    r"|Provided cores|\[IPKernelApp\] ERROR . Keyboard|(chapter|site|book|total) +\d+$"
)


@contextmanager
def only_build() -> Iterator[None]:
    """Hold ``_build/build.lock``. The system frees it when a process dies: never stale."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "build.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildError(
                "lock: expected to be the only build of this working tree, found another running; "
                "wait for it or stop it"
            ) from error
        yield


def caches() -> dict[str, str]:
    """Where programs keep what they may lose, if the home folder (of a container) is read-only."""
    with suppress(OSError, RuntimeError):  # Path.home() raises it for a user without a home
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        usual.mkdir(parents=True, exist_ok=True)
        if os.access(usual, os.W_OK):
            return {}
    return {name: str(BUILD / "cache") for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR")}


def snakemake(profile: str, cores: int, flags: list[str]) -> int:
    """Run the graph. Our lock replaces Snakemake's, which a killed build would leave behind.

    Snakemake reads a copy of the Snakefile, which it finds by path alone: a copy that outlived its
    build would hide an edit.
    """
    copies = BUILD / "snakemake-cache"
    shutil.rmtree(copies, ignore_errors=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(BOOK / "Snakefile")]
    command += ["--directory", str(BUILD), "--config", f"profile={profile}"]
    command += ["--cores", str(cores), "--nolock", "--rerun-incomplete", "--keep-going"]
    command += ["--scheduler", "greedy", "--quiet", "host", "reason", "rules"]
    command += ["--runtime-source-cache-path", str(copies), *flags]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "bufsize": 1}
    process = subprocess.Popen(command, env=os.environ | caches(), **out)
    assert process.stdout is not None
    for line in process.stdout:
        if not NOISE.match(line):
            print(line, end="", flush=True)
    return process.wait()


def summarise(profile: str, status: int, seconds: float) -> bool:
    """Print what stands after Snakemake's exit status; True if it all does."""
    names = chapters()
    done = [name for name in names if (BUILD / profile / f"{name}.ipynb").is_file()]
    missing = [name for name in names if name not in done]
    built = status == 0 and (BUILD / "site.done").is_file()
    print(f"\nprofile   {profile}, {seconds:.0f} s")
    print(f"chapters  {len(done)} of {len(names)} executed" + _listed("; failed: ", missing))
    show_times(profile, done)
    claims_hold = _claims(profile) if built else False
    where = (BUILD / "html" / "index.html").relative_to(ROOT)
    print(f"site      {where if built else 'not built (what is in _build/html is older)'}")
    return built and not missing and claims_hold


def _listed(prefix: str, names: list[str]) -> str:
    return prefix + ", ".join(names) if names else ""


def show_times(profile: str, names: list[str]) -> None:
    """Each chapter's seconds when it last ran, the longest first; a warning where over budget."""
    rows = []
    for name in names:
        notebook = json.loads((BUILD / profile / f"{name}.ipynb").read_text(encoding="utf-8"))
        took = notebook["metadata"]["markovscore"]
        rows.append((took["cpu_seconds"], took["seconds"], name))
    rows.sort(reverse=True)
    total = sum(cpu for cpu, _, _ in rows)
    print(f"times     {total:.0f} s of CPU in all; each chapter's, and by the clock:")
    for cpu, wall, name in rows:
        print(f"          {cpu:5.0f} s ({wall:.0f} s) {name}")
    budget = BUDGETS.get(profile, math.inf)
    for cpu, _, name in rows:
        if cpu > budget:
            print(f"WARNING   {name}: expected at most {budget} s of CPU, found {cpu:.0f} s")


def _claims(profile: str) -> bool:
    report = json.loads((BUILD / "claims.json").read_text(encoding="utf-8"))
    counts = report["summary"]
    wrong = counts["fail"] + counts["missing"]
    judged = "" if counts["not-judged"] == 0 else f", {counts['not-judged']} recorded, not judged"
    judged += "" if counts["skipped"] == 0 else f", {counts['skipped']} skipped for want of data"
    print(f"claims    {counts['pass']} hold, {wrong} fail or are missing{judged}")
    for problem in report["problems"]:
        print(f"          {problem}")
    return report["ok"] and report["profile"] == profile


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="ci", help="a file of book/profiles")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="chapters at once")
    parser.add_argument("--snakemake", default="", help="more options for Snakemake, one string")
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        load_profile(options.profile)
        names = chapters()
        with only_build():
            print(f"{len(names)} chapters, {options.profile} profile", flush=True)
            status = snakemake(options.profile, options.cores, shlex.split(options.snakemake))
            fine = summarise(options.profile, status, time.perf_counter() - start)
    except (BuildError, OSError) as error:
        print(f"FAILED {explained(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; `make book` resumes with the chapters that are left", file=sys.stderr)
        return 130
    return status or (0 if fine else 1)


if __name__ == "__main__":
    raise SystemExit(main())
