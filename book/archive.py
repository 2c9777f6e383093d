"""The executed book as one file, from which its site is built again without executing anything.

``python book/archive.py pack --profile ci`` writes ``_build/markovscore-book-<version>-ci.zip``:
notebooks, trainings, measurements, the claims with their verdicts, and ``manifest.json``, with the
SHA-256 of each and of the files of the tree that they were made from. The same build gives the same
bytes. ``python book/archive.py site FILE`` builds the site in ``_build/html`` from a file that is
whole and was made from this tree, and asks that the claims come out as they did.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
import zlib
from pathlib import Path

import make_site
import trainings
from contents import BOOK, BUILD, ROOT, BuildError, chapters, explained, load_profile, page_path

from markovscore import __version__

MANIFEST = "manifest.json"
FIRST = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip, for every file
DAMAGED = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, LookupError)
DAMAGED += (TypeError, ValueError)  # a manifest of something else
AGAIN = "make it again with `make archive`, or fetch it again"


def stored(profile: str) -> dict[str, Path]:
    """What an archive holds: name in it -> path in the tree."""
    runs = (
        f"{run}.{kind}" for run in trainings.declared(profile) for kind in ("json", "safetensors")
    )
    files = {f"notebooks/{name}.ipynb": BUILD / profile / f"{name}.ipynb" for name in chapters()}
    files |= {f"runs/{name}": BUILD / "runs" / profile / name for name in runs}
    files |= {f"measurements/{path.name}": path for path in (BOOK / "measurements").glob("*.json")}
    return files | {"claims.yml": BOOK / "claims.yml", "verdicts.json": BUILD / "claims.json"}


def sources(profile: str) -> dict[str, str]:
    """The SHA-256 of each file of the tree on which the notebooks depend, by its path."""
    load_profile(profile)
    package = ROOT / "src"
    paths = [*map(page_path, chapters()), *package.rglob("*.py"), *package.rglob("*.csv")]
    paths += [*(BOOK / "measurements").glob("*.json"), ROOT / "requirements.lock"]
    paths += [BOOK / "claims.yml", BOOK / "profiles" / f"{profile}.yml", trainings.FILE]
    return {p.relative_to(ROOT).as_posix(): _sha(p.read_bytes()) for p in paths if p.is_file()}


def pack(profile: str) -> Path:
    """Write the archive of a profile that was built; returns its path."""
    files = {}
    for name, path in sorted(stored(profile).items()):
        if not path.is_file():
            raise BuildError(
                f"archive: expected {path.relative_to(ROOT)} of a whole build, found none; "
                f"run `make book PROFILE={profile}`"
            )
        files[name] = path.read_bytes()
    if (last := json.loads(files["verdicts.json"])["profile"]) != profile:
        raise BuildError(
            f"archive: expected a site last built of the {profile} profile, found one of {last}; "
            f"run `make book PROFILE={profile}`"
        )
    manifest = {
        "version": __version__,
        "profile": profile,
        "files": {name: _sha(data) for name, data in files.items()},
        "made_from": sources(profile),
    }
    text = json.dumps(manifest, indent=1, sort_keys=True)
    target = BUILD / f"markovscore-book-{__version__}-{profile}.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in {MANIFEST: text.encode(), **files}.items():
            info = zipfile.ZipInfo(name, FIRST)
            info.external_attr = 0o644 << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED, 9)
    return target


def site(path: Path) -> int:
    """Build the site from an archive; returns the exit status."""
    profile, files = opened(path)
    places = stored(profile)
    written = {
        places[n]: data for n, data in files.items() if n.startswith(("notebooks/", "runs/"))
    }
    for place, data in written.items():
        if place.is_file() and place.read_bytes() != data:
            raise BuildError(
                f"{path}: expected no other build in _build, found another "
                f"{place.relative_to(ROOT)}; move _build away, or `make clean`"
            )
    for place, data in written.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    status = make_site.make(profile)
    if places["verdicts.json"].read_bytes() != files["verdicts.json"]:
        raise BuildError(
            f"{path}: expected the verdicts that it has, found others in _build/claims.json; "
            "compare the two, and report the difference"
        )
    return status


def opened(path: Path) -> tuple[str, dict[str, bytes]]:
    """The profile of an archive and its files, if they are whole and were made from this tree."""
    if not path.is_file():
        raise BuildError(
            f"archive: expected a file, found none at {str(path)!r}; name it: make site ARCHIVE=..."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(files.pop(MANIFEST))
        profile, sums, tree = manifest["profile"], dict(manifest["files"]), manifest["made_from"]
    except DAMAGED as error:
        raise BuildError(
            f"{path}: expected a whole zip that `make archive` wrote, with {MANIFEST}, found "
            f"{type(error).__name__}: {error}; {AGAIN}"
        ) from error
    _same(path, {name: _sha(data) for name, data in files.items()}, sums, "unchanged", AGAIN)
    _same(path, tree, sources(profile), "made from this tree", "check out the commit it is of")
    names = dict.fromkeys(stored(profile), "")
    _same(path, dict.fromkeys(files, ""), names, "complete", AGAIN)
    return profile, files


def _same(path: Path, found: dict[str, str], expected: dict[str, str], what: str, fix: str) -> None:
    """An error that names what differs between two lists of checksums."""
    other = sorted(dict(found.items() ^ expected.items()))
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        names = ", ".join(other[:3]) + more
        raise BuildError(f"{path}: expected an archive {what}, found others: {names}; {fix}")


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pack").add_argument("--profile", default="ci")
    commands.add_parser("site").add_argument("file", type=Path)
    options = parser.parse_args()
    if options.command == "site":
        return site(options.file)
    path = pack(options.profile)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(explained(main))
