"""From executed notebooks to checked claims and a site; called by the Snakefile.

``python book/make_site.py verify --profile ci``  writes ``_build/claims.json``;
``python book/make_site.py html --profile ci``    writes ``_build/html``.

A claim that fails does not stop the site, which shows it; ``book/build.py`` turns it into an exit
status. A page with a warning does stop it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from contents import BOOK, BUILD, ROOT, BuildError, chapters, explained, toc_pages
from downloads import complete
from ledger import staged, write_pages

from markovscore.claims import ClaimsError, Report, load_claims, verify

SITE = BUILD / "site"
HTML = BUILD / "html"


def notebooks(profile: str) -> dict[str, Path]:
    """The executed chapters of the table of contents; a stale notebook beside them is ignored."""
    paths = {chapter: BUILD / profile / f"{chapter}.ipynb" for chapter in chapters()}
    return {chapter: path for chapter, path in paths.items() if path.is_file()}


def check_claims(profile: str) -> Report:
    """Verify the ledger and write ``_build/claims.json``."""
    report = verify(notebooks(profile), load_claims(BOOK / "claims.yml"), profile)
    (BUILD / "claims.json").write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    return report


def stage(profile: str, report: Report) -> None:
    """Lay out ``_build/site``: prose pages, executed notebooks, generated pages, assets."""
    shutil.rmtree(SITE, ignore_errors=True)
    SITE.mkdir(parents=True)
    for page in toc_pages():
        suffix, text = staged(page, BUILD / profile / f"{page}.ipynb", report)
        target = SITE / f"{page}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    write_pages(report, SITE / "_generated")
    shutil.copytree(BOOK / "assets", SITE / "assets")
    for path in (ROOT / "_config.yml", ROOT / "_toc.yml", BOOK / "references.bib"):
        shutil.copy(path, SITE)
    shutil.copy(BOOK / "sphinx_site.py", SITE)


def build_html() -> int:
    """Run Jupyter Book from scratch: a cached page would hide its warnings the second time."""
    for folder in (HTML, BUILD / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    # Not the script beside the interpreter: it names a path, which may be old, or hold quotes.
    jupyter_book = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", jupyter_book, "build", str(SITE)]
    command += ["--path-output", str(ROOT), "-W", "--keep-going", "-n", "-q"]
    log = BUILD / "sphinx.log"
    with log.open("w", encoding="utf-8") as stream:
        status = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
    missing = [page for page in toc_pages() if not (HTML / f"{page}.html").is_file()]
    if status or missing:
        print(
            f"\nFAILED site: {', '.join(missing) or 'warnings, which count as errors'}",
            file=sys.stderr,
        )
        print(_relevant(log.read_text(encoding="utf-8")), file=sys.stderr)
    return status or int(bool(missing))


def _relevant(log: str) -> str:
    words = ("WARNING", "ERROR", "Error", "Exception")
    log = re.sub(r"\x1b\[[\d;]*m", "", log).replace(f"{SITE}/", "book/").replace(f"{ROOT}/", "")
    lines = [line for line in log.splitlines() if any(word in line for word in words)]
    return "\n".join(lines[:60] or log.splitlines()[-30:])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("verify", "html"))
    parser.add_argument("--profile", default="ci", help="a file of book/profiles")
    options = parser.parse_args()
    try:
        report = check_claims(options.profile)
        if options.task == "verify":
            return 0
        print("  site: building", file=sys.stderr, flush=True)
        stage(options.profile, report)
        status = build_html()
        if not status:
            complete(HTML, SITE)
        return status
    except (BuildError, ClaimsError, OSError) as error:
        print(f"\nFAILED {explained(error)}\n", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
