"""From executed notebooks to checked claims (``_build/claims.json``) and a site (``_build/html``).

``python book/make_site.py --profile ci`` is called by the Snakefile. A claim that fails does not
stop the site, which shows it; a page with a warning does.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys

from contents import BOOK, BUILD, ROOT, BuildError, executed, explained, toc_pages
from downloads import complete
from ledger import Report, load_claims, verify
from pages import staged, write_pages
from playground import write_data

from markovscore.claims import ClaimsError

SITE = BUILD / "site"
HTML = BUILD / "html"


def stage(profile: str, report: Report) -> None:
    """Lay out ``_build/site``: prose pages, executed notebooks, generated pages, assets."""
    shutil.rmtree(SITE, ignore_errors=True)
    for page in toc_pages():
        suffix, text = staged(page, BUILD / profile / f"{page}.ipynb", report)
        target = SITE / f"{page}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    write_pages(report, SITE / "_generated")
    shutil.copytree(BOOK / "assets", SITE / "assets")
    playground = SITE / "assets" / "playground"
    if playground.is_dir():
        write_data(playground)
    files = (ROOT / "_config.yml", ROOT / "_toc.yml", BOOK / "references.bib")
    for path in (*files, *BOOK.glob("sphinx_*.py")):
        shutil.copy(path, SITE)


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
        reason = ", ".join(missing) or "warnings, which count as errors"
        print(f"\nFAILED site: {reason}\n{_relevant(log.read_text('utf-8'))}", file=sys.stderr)
    return status or int(bool(missing))


def _relevant(log: str) -> str:
    log = re.sub(r"\x1b\[[\d;]*m", "", log).replace(f"{SITE}/", "book/").replace(f"{ROOT}/", "")
    told = re.compile("WARNING|ERROR|Error|Exception")
    lines = [line for line in log.splitlines() if told.search(line)]
    return "\n".join(lines[:60] or log.splitlines()[-30:])


def make(profile: str) -> int:
    """Verify the ledger, stage the pages, build them, complete their downloads."""
    try:
        report = verify(executed(BUILD / profile), load_claims(BOOK / "claims.yml"), profile)
    except ClaimsError as error:
        raise BuildError(str(error)) from error
    report.write(BUILD / "claims.json")
    print("  site: building", file=sys.stderr, flush=True)
    stage(profile, report)
    status = build_html()
    if not status:
        complete(HTML, SITE, profile)
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="ci", help="a file of book/profiles")
    profile = parser.parse_args().profile
    raise SystemExit(explained(lambda: make(profile)))
