"""The long trainings that the build makes: what is declared, and what each depends on; no torch.

A run leaves ``<name>.safetensors``, the network, and ``<name>.json``, the log, in
``_build/runs/<profile>``. The log names the *inputs* that it had: a hash of its settings, of the
code that trains, of the lock. A chapter is not executed with a run that had others.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from contents import BOOK, ROOT, BuildError

FILE = BOOK / "runs.yml"
# No training depends on these, so that a change of theirs repeats none.
APART = ("spectral", "reference", "metrics.py", "figures.py", "claims.py")


def sources() -> list[Path]:
    """The code that trains, and the lock."""
    package = ROOT / "src" / "markovscore"
    files = sorted(path for path in package.rglob("*.py") if path.is_file())
    used = [path for path in files if path.relative_to(package).parts[0] not in APART]
    return [*used, BOOK / "run_training.py", ROOT / "requirements.lock"]


def declared(profile: str) -> dict[str, dict[str, Any]]:
    """Name -> settings of every run in ``profile``; none where there is no ``runs.yml``."""
    if not FILE.is_file():
        return {}
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    common, found = content["settings"], {}
    changes = content["profiles"].get(profile, {})
    if unknown := sorted(set(changes) - set(common)):
        raise BuildError(
            f"book/runs.yml, profile {profile}: expected some of {', '.join(sorted(common))}, "
            f"found {', '.join(unknown)}; correct the name"
        )
    for run, block in content["runs"].items():
        own = {key: value for key, value in block.items() if key != "seeds"}
        if unknown := sorted(set(own) - set(common) - {"objective", "options"}):
            raise BuildError(
                f"book/runs.yml, {run}: expected objective, options, seeds and some of "
                f"{', '.join(sorted(common))}, found {', '.join(unknown)}; correct the name"
            )
        for seed in block["seeds"]:
            found[f"{run}_{seed}"] = common | changes | own | {"seed": seed}
    return found


def settings_of(name: str, profile: str) -> dict[str, Any]:
    """The settings of one run; a name that is not declared is an error that lists those that
    are."""
    known = declared(profile)
    if name not in known:
        raise BuildError(
            f"run: expected one of {', '.join(known)}, found {name!r}; declare it in book/runs.yml"
        )
    return known[name]


def inputs(name: str, profile: str) -> str:
    """The hash of all that the run depends on."""
    digest = hashlib.sha256(json.dumps(settings_of(name, profile), sort_keys=True).encode())
    for path in sources():
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def named(text: str, profile: str) -> list[str]:
    """The runs that a chapter's text names."""
    words = set(re.findall(r"\w+", text))
    return [name for name in declared(profile) if name in words]


def refuse_others(text: str, profile: str, folder: Path) -> None:
    """An error for each run named in ``text`` that is not in ``folder``, or had other inputs."""
    for name in named(text, profile):
        fix = f"make it: python book/run_training.py {name} --profile {profile}"
        log = folder / f"{name}.json"
        if not (log.is_file() and log.with_suffix(".safetensors").is_file()):
            raise BuildError(
                f"run {name}: expected this training, which the chapter shows, among those of the "
                f"{profile} profile, found none; {fix}"
            )
        had, has = json.loads(log.read_text(encoding="utf-8"))["inputs"], inputs(name, profile)
        if had != has:
            raise BuildError(
                f"run {name}: expected one whose inputs (settings, code, lock) have the hash "
                f"{has[:12]}, found {had[:12]}: they changed after it was made; {fix}"
            )
