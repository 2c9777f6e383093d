"""The ledger: what it accepts, and every way in which it must refuse."""

import json
import math
import re
import subprocess
from dataclasses import replace

import contents
import ledger
import numpy as np
import pages
import pytest
import torch
from odd_inputs import refused

from markovscore import claims

CLAIM = ledger.Claim(
    id="part.chapter.error",
    paper="A",
    item="Figure 1",
    sentence="The error is small.",
    quantity="relative error",
    comparison="<",
    threshold=0.1,
    chapter="part/chapter",
    verdict="reproduced",
)


def notebook(path, *records):
    """An executed notebook that holds these records, written by hand."""
    outputs = [
        {"output_type": "display_data", "data": {claims.MIME: r, "text/plain": ""}, "metadata": {}}
        for r in records
    ]
    empty = {"source": "", "metadata": {}}
    cells = [empty | {"cell_type": "markdown"}, empty | {"cell_type": "code", "outputs": outputs}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    return path


def stored(value, id=CLAIM.id, stderr=None):
    return {"id": id, "value": value, "stderr": stderr, "note": ""}


def check(tmp_path, *records, chapter="part/chapter", profile="ci", declared=(CLAIM,)):
    path = notebook(tmp_path / f"{chapter}.ipynb", *records)
    return ledger.verify({chapter: path}, declared, profile)


OPTIONAL = replace(CLAIM, needs="cifar10")


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A folder for executed notebooks, of a book with one chapter."""
    monkeypatch.setattr(contents, "chapters", lambda: [CLAIM.chapter])
    return tmp_path / "built"


@pytest.fixture
def shown(monkeypatch):
    """What ``record`` displays."""
    bundles = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, raw: bundles.append(data) if raw else None
    )
    return bundles


@pytest.mark.parametrize(
    "value", [0.25, np.float32(0.25), torch.tensor(0.25), torch.tensor([0.25]), np.array(0.25)]
)
def test_record_stores_plain_numbers(shown, value):
    claims.record("a.b", value, stderr=torch.tensor(0.5), note="<why>")
    (bundle,) = shown
    assert bundle[claims.MIME] == {"id": "a.b", "value": 0.25, "stderr": 0.5, "note": "<why>"}
    assert json.loads(json.dumps(bundle[claims.MIME])) == bundle[claims.MIME]
    assert "0.25 ± 0.5" in bundle["text/plain"]
    assert "&lt;why&gt;" in bundle["text/html"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"id": "a.b", "value": math.nan}, "finite"),
        ({"id": "a.b", "value": -math.inf}, "finite"),
        ({"id": "a.b", "value": 1.0, "stderr": math.nan}, "stderr"),
        ({"id": "a.b", "value": 1.0, "stderr": -1.0}, ">= 0"),
        ({"id": "a.b", "value": torch.ones(2)}, "scalar"),
        ({"id": "a.b", "value": "much"}, "real number"),
        ({"id": "a.b", "value": None}, "real number"),
        ({"id": "Not an id", "value": 1.0}, "lower-case"),
    ],
)
def test_record_refuses(shown, arguments, words):
    refused(words, claims.record, **arguments, error=claims.ClaimsError)
    assert shown == []


def test_skip_stores_the_reason(shown):
    claims.skip("a.b", " no <data> ")
    (bundle,) = shown
    assert bundle[claims.MIME] == {"id": "a.b", "value": None, "stderr": None, "note": "no <data>"}
    assert "not measured" in bundle["text/plain"]
    assert 'id="claim-a.b"' in bundle["text/html"] and "no &lt;data&gt;" in bundle["text/html"]


@pytest.mark.parametrize(
    ("id", "reason", "words"),
    [("a.b", "", "reason"), ("a.b", " ", "reason"), ("a.b", None, "reason"), ("A", "x", "lower")],
)
def test_skip_refuses(shown, id, reason, words):
    refused(words, claims.skip, id, reason, error=claims.ClaimsError)
    assert shown == []


OTHER = "part.chapter.other"


def left_out(id=CLAIM.id):
    return {"id": id, "value": None, "stderr": None, "note": "CIFAR-10 is not here"}


# What a chapter records, the claim's state, what else differs from one claim in its own chapter in
# the ci profile, and the words of the one problem (none: there is no problem).
VERDICTS = [
    ([stored(0.05, stderr=0.01)], "pass", {}, None),
    ([stored(0.2, stderr=0.03)], "fail", {}, "relative error < 0.1, found 0.2 ± 0.03"),
    ([stored(0.2)], "fail", {"declared": [replace(CLAIM, verdict="not-reproduced")]}, ""),
    ([], "missing", {}, "never recorded"),
    ([stored(0.05), stored(1.0, id=OTHER)], "pass", {}, f"{OTHER}.*not declared"),
    ([stored(0.05), stored(0.04)], "fail", {}, "expected one record, found 2"),
    ([stored(0.05)], "fail", {"chapter": "part/other"}, "recorded in part/other"),
    ([stored(9.0)], "not-judged", {"profile": "smoke"}, None),
    ([], "missing", {"profile": "smoke"}, ""),
    ([stored(9.0), stored(9.0, id="a.b")], "not-judged", {"profile": "smoke"}, ""),
    ([left_out()], "fail", {}, "only a claim that declares needs"),
    ([left_out()], "fail", {"profile": "smoke"}, "only a claim that declares needs"),
    ([stored(0.05)], "pass", {"declared": [OPTIONAL]}, None),
    ([stored(0.2)], "fail", {"declared": [OPTIONAL]}, ""),
    ([], "missing", {"declared": [OPTIONAL]}, "never recorded"),
    ([left_out(), stored(0.05)], "fail", {"declared": [OPTIONAL]}, "expected one record, found 2"),
    ([stored(0.05), left_out()], "fail", {"declared": [OPTIONAL]}, "expected one record, found 2"),
    ([left_out()], "fail", {"chapter": "part/other", "declared": [OPTIONAL]}, "in part/other"),
    ([stored(0.05), left_out(OTHER)], "pass", {}, "not declared"),
]


@pytest.mark.parametrize(("records", "status", "more", "words"), VERDICTS)
def test_the_verdict(tmp_path, records, status, more, words):
    report = check(tmp_path, *records, **more)
    assert [row.status for row in report.rows] == [status] and report.count(status) == 1
    if words is None:
        assert report.problems == ()
    else:
        (problem,) = report.problems
        assert re.search(words, problem)


@pytest.mark.parametrize(
    ("comparison", "below", "equal", "above"),
    [("<", 1, 0, 0), ("<=", 1, 1, 0), (">", 0, 0, 1), (">=", 0, 1, 1)],
)
def test_each_comparison(tmp_path, comparison, below, equal, above):
    claim = replace(CLAIM, comparison=comparison)
    found = [not check(tmp_path, stored(v), declared=[claim]).problems for v in (0.05, 0.1, 0.2)]
    assert found == [bool(below), bool(equal), bool(above)]


def test_declared_in_a_chapter_that_did_not_run():
    assert "not executed" in ledger.verify({}, [CLAIM]).problems[0]


@pytest.mark.parametrize("profile", ["ci", "smoke"])
def test_an_optional_claim_may_be_skipped(tmp_path, profile):
    report = check(tmp_path, left_out(), declared=[OPTIONAL], profile=profile)
    assert report.problems == ()
    assert [row.status for row in report.rows] == ["skipped"]
    assert report.rows[0].record.note == "CIFAR-10 is not here"
    report.write(tmp_path / "claims.json")
    stated = json.loads((tmp_path / "claims.json").read_text())
    none = dict.fromkeys(("pass", "fail", "missing", "not-judged"), 0)
    assert stated["summary"] == none | {"declared": 1, "skipped": 1}
    assert stated["claims"][0]["claim"]["needs"] == "cifar10"


def test_the_ledger_page_gives_the_reason(tmp_path):
    import nbformat
    from pages import ledger as page
    from pages import show_verdicts, summary

    report = check(tmp_path, left_out(), declared=[OPTIONAL])
    text = page(report, CLAIM.paper)
    assert 'verdict-skipped">not measured here<' in text
    assert "CIFAR-10 is not here" in text and "*Needs cifar10.*" in text
    assert "**0 fail**; 1 could not be measured" in summary(report)
    assert "(cifar10)" in summary(report)
    executed = nbformat.from_dict(json.loads((tmp_path / "part" / "chapter.ipynb").read_text()))
    show_verdicts(executed, report, "part/chapter")
    row = executed.cells[1].outputs[0]["data"]["text/html"]
    assert 'id="claim-part.chapter.error"' in row
    assert "not measured" in row and "CIFAR-10 is not here" in row and "None" not in row


def written(path, **changes):
    import yaml

    block = {name: getattr(CLAIM, name) for name in CLAIM.__dataclass_fields__} | changes
    block = {name: value for name, value in block.items() if value is not None}
    path.write_text(yaml.safe_dump([block]))
    return path


def test_a_ledger_is_read(tmp_path):
    assert ledger.load_claims(written(tmp_path / "claims.yml")) == (CLAIM,)
    assert ledger.load_claims(written(tmp_path / "claims.yml", needs="cifar10")) == (OPTIONAL,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"comparison": "=="}, "comparison"),
        ({"verdict": "true"}, "verdict"),
        ({"paper": "C"}, "paper"),
        ({"threshold": "small"}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"id": "Bad Id"}, "lower-case"),
        ({"quantity": None}, "quantity"),
        ({"extra": 1}, "extra"),
        ({"needs": "CIFAR 10"}, "needs"),
        ({"needs": ""}, "needs"),
        ({"needs": ["cifar10"]}, "needs"),
    ],
)
def test_a_malformed_ledger_is_refused(tmp_path, changes, words):
    path = written(tmp_path / "claims.yml", **changes)
    refused(words, ledger.load_claims, path, error=claims.ClaimsError)


def test_an_id_declared_twice_is_refused(tmp_path):
    path = written(tmp_path / "claims.yml")
    path.write_text(path.read_text() * 2)
    refused("twice", ledger.load_claims, path, error=claims.ClaimsError)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "part" / "chapter.ipynb"
    path.parent.mkdir()
    path.write_text("not a notebook")
    refused("notebook", ledger.verify, {"part/chapter": path}, [CLAIM], error=claims.ClaimsError)


@pytest.mark.parametrize(
    ("record", "needs", "status", "words"),
    [
        (stored(0.05), None, 0, "1 hold, 0 fail"),
        (stored(0.5), None, 1, "0 hold, 1 fail"),
        (left_out(), "cifar10", 0, "0 hold, 0 fail, 0 missing, 0 not judged, 1 skipped"),
    ],
)
def test_the_command_line(built, tmp_path, capsys, record, needs, status, words):
    notebook(built / "part" / "chapter.ipynb", record)
    notebook(built / "part" / "left_the_book.ipynb", stored(9.0, id="part.left.error"))
    path = written(tmp_path / "claims.yml", needs=needs)
    arguments = ["verify", "--claims", path, "--notebooks", built]
    arguments += ["--json", tmp_path / "claims.json"]
    assert ledger.main([str(a) for a in arguments]) == status
    assert json.loads((tmp_path / "claims.json").read_text())["ok"] == (status == 0)
    assert words in capsys.readouterr().out


def test_the_command_line_reports_a_missing_ledger(tmp_path, capsys):
    arguments = ["verify", "--claims", str(tmp_path / "no.yml"), "--notebooks", str(tmp_path)]
    assert ledger.main(arguments) == 2
    assert "no.yml" in capsys.readouterr().err


def row(status, verdict="reproduced"):
    return ledger.Row(replace(CLAIM, verdict=verdict), None, status)


HOLDS, REFUTED = row("pass"), row("pass", "not-reproduced")


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([], "shown"),
        ([row("skipped"), row("not-judged")], "not-measured"),
        ([HOLDS, row("skipped")], "reproduced"),
        ([REFUTED], "not-reproduced"),
        ([row("fail"), row("missing")], "not-reproduced"),
        ([row("fail", "not-reproduced")], "not-reproduced"),
        ([REFUTED, HOLDS], "partly"),
        ([HOLDS, row("fail")], "partly"),
    ],
)
def test_an_item_has_one_verdict(rows, verdict):
    assert pages.item_verdict(rows) == verdict


def test_the_items_table_names_the_claim_that_decides(monkeypatch):
    item = {"paper": "A", "item": "Figure 1", "title": "A picture", "where": ["fig-a"]}
    monkeypatch.setattr(pages, "load_items", lambda: [item, item | {"item": "Figure 2"}])
    against = replace(CLAIM, id="part.chapter.against", sentence="It does not.")
    ours = replace(CLAIM, paper="ours", id="part.chapter.ours", verdict="beyond")
    rows = (HOLDS, replace(REFUTED, claim=replace(against, verdict="not-reproduced")))
    report = ledger.Report("ci", (*rows, ledger.Row(ours, None, "fail")), ())
    text = pages.paper_items(report)
    assert "It does not." in text and "Of 2 claims 1 go against the paper." in text
    assert "part.chapter.ours" not in text and "{numref}`fig-a`" in text
    assert "Of the 2 numbered items of the two papers: 1 partly, 1 shown." in pages.summary(report)
    shown = set(
        re.findall(r'<span class="verdict [^>]*>([^<]*)<', text + pages.ledger(report, "A"))
    )
    buttons = re.findall(r'<button type="button" aria-pressed="false" value="([^"]*)">\1<', text)
    assert sorted(shown) == buttons, "book.js compares the words of a row and of a button"
    assert "<form" in text and " hidden>" in text, "without scripts there is no filter"


def test_a_box_shows_the_outcome_and_folds_the_rest(tmp_path):
    import nbformat

    claim = replace(CLAIM, sentence="For $t < 1$ & $s$ it is small.")
    report = check(tmp_path, stored(0.05, stderr=0.01) | {"note": "a <note>"}, declared=[claim])
    executed = nbformat.read(tmp_path / "part" / "chapter.ipynb", as_version=4)
    pages.show_verdicts(executed, report, "part/chapter")
    shown, folded = executed.cells[1].outputs[0]["data"]["text/html"].split("<details>")
    assert "reproduced" in shown and "0.05 ± 0.01" in shown
    assert r'nohighlight">\(t &lt; 1\)</span> &amp; <span' in shown
    assert not {"relative error", "0.1", claim.id} & set(re.findall(r"[\w. ]+(?=[<;])", shown))
    for words in ("relative error", "&lt; 0.1", "a &lt;note&gt;", f"claims.html#{claim.id}"):
        assert words in folded


def test_the_footer_names_the_build(tmp_path, monkeypatch):
    from datetime import UTC, datetime

    from markovscore import __version__

    monkeypatch.setattr(pages, "ROOT", tmp_path)
    text = pages.footer("smoke")
    for words in ("smoke profile", __version__, "MIT licence", "{home}#cite", "commit unknown"):
        assert words in text
    assert f"{datetime.now(UTC):%Y-%m}" in text
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    assert re.search(r"commit [0-9a-f]{10}\.", pages.footer("ci"))
    (tmp_path / "file").write_text("two")
    assert re.search(r"commit [0-9a-f]{10}, with local changes\.", pages.footer("ci"))


def test_what_did_not_come_out_is_in_the_first_table_of_differences():
    text = contents.page_path("reproduction/differences").read_text()
    first = text.split("\n## ")[1]
    assert first.startswith("What did not come out\n\n| item |")
    for claim in ledger.load_claims(contents.BOOK / "claims.yml"):
        if claim.verdict == "not-reproduced" and claim.paper != "ours":
            assert f"../{claim.chapter}`" in first, claim.id
