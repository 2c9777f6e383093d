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
from scipy import stats

from markovscore import claims

CLAIM = ledger.Claim(
    id="part.chapter.error",
    kind="check",
    paper="A",
    item="Figure 1",
    sentence="The error is small.",
    quantity="relative error",
    comparison="<",
    threshold=0.1,
    chapter="part/chapter",
)
AIM = replace(CLAIM, kind="aim", paper="ours", seeds=3, last="holds")
EXACT = replace(AIM, seeds="exact")
PAPER = replace(AIM, kind="paper", paper="A", source="caption", control="zero", constants=("eps",))


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


def stored(value, id=CLAIM.id, stderr=None, **evidence):
    return {"id": id, "value": value, "stderr": stderr, "note": "", **evidence}


def measured(value, stderr=0.01, control=0.4, constants=(0.05, 0.04), seeds=3):
    """A record with all that a claim of a paper has to show."""
    evidence = {"control": control, "seeds": seeds, "constants": {"eps": list(constants)}}
    return stored(value, stderr=stderr, **evidence)


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
    assert "0.25 ± 0.50" in bundle["text/plain"]
    assert "&lt;why&gt;" in bundle["text/html"]


def test_record_stores_the_evidence(shown):
    evidence = {"control": torch.tensor(1.0), "seeds": 3, "constants": {"eps": (np.float32(1), 2)}}
    claims.record("a.b", 0.25, 0.5, **evidence)
    plain = {"control": 1.0, "seeds": 3, "constants": {"eps": [1.0, 2.0]}}
    assert shown[0][claims.MIME] == stored(0.25, "a.b", 0.5, **plain)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"id": "a.b", "value": 1.0, "control": math.nan}, "control"),
        ({"id": "a.b", "value": 1.0, "seeds": 0}, "positive integer"),
        ({"id": "a.b", "value": 1.0, "seeds": True}, "positive integer"),
        ({"id": "a.b", "value": 1.0, "constants": {"eps": 2.0}}, "eps.*two numbers"),
        ({"id": "a.b", "value": 1.0, "constants": {"eps": (1.0, math.inf)}}, "another eps"),
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
OUTCOMES = [
    ([stored(0.05, stderr=0.01)], "holds", {}, None),
    ([stored(0.2, stderr=0.03)], "does not hold", {}, "error < 0.1 by 2 .*, found 0.200 ± 0.030"),
    ([stored(0.09, stderr=0.006)], "does not hold", {}, "mend the cause"),
    ([stored(0.2)], "does not hold", {}, "relative error < 0.1, found 0.2 in"),
    ([], "missing", {}, "never recorded"),
    ([stored(0.05), stored(1.0, id=OTHER)], "holds", {}, f"{OTHER}.*not declared"),
    ([stored(0.05), stored(0.04)], "defective", {}, "expected one record, found 2"),
    ([stored(0.05)], "defective", {"chapter": "part/other"}, "recorded in part/other"),
    ([stored(9.0)], "not judged", {"profile": "smoke"}, None),
    ([], "missing", {"profile": "smoke"}, ""),
    ([stored(9.0), stored(9.0, id="a.b")], "not judged", {"profile": "smoke"}, ""),
    ([left_out()], "defective", {}, "only a claim that declares needs"),
    ([left_out()], "defective", {"profile": "smoke"}, "only a claim that declares needs"),
    ([stored(0.05)], "holds", {"declared": [OPTIONAL]}, None),
    ([stored(0.2)], "does not hold", {"declared": [OPTIONAL]}, ""),
    ([], "missing", {"declared": [OPTIONAL]}, "never recorded"),
    ([left_out(), stored(0.05)], "defective", {"declared": [OPTIONAL]}, "found 2"),
    ([stored(0.05), left_out()], "defective", {"declared": [OPTIONAL]}, "found 2"),
    ([left_out()], "defective", {"chapter": "part/other", "declared": [OPTIONAL]}, "in part/other"),
    ([stored(0.05), left_out(OTHER)], "holds", {}, "not declared"),
    # what a statement of a paper and an aim have to show
    ([measured(0.05)], "holds", {"declared": [PAPER]}, None),
    (
        [measured(0.05, control=0.0)],
        "defective",
        {"declared": [PAPER]},
        "to miss",
    ),
    ([measured(0.05, control=None)], "defective", {"declared": [PAPER]}, "in the same cell"),
    ([measured(0.05, stderr=None)], "defective", {"declared": [PAPER]}, "standard error over 3"),
    ([measured(0.05, seeds=2)], "defective", {"declared": [PAPER]}, "declared 3, recorded 2"),
    ([measured(0.05, seeds=None)], "defective", {"declared": [PAPER]}, "recorded None"),
    ([measured(0.05, constants=(0.05, 0.2))], "defective", {"declared": [PAPER]}, "hangs on eps"),
    ([measured(0.2, 0.0, 0.4, (0.2, 0.05))], "defective", {"declared": [PAPER]}, "hangs on eps"),
    ([measured(9.0, 1.0, 0.0)], "not judged", {"declared": [PAPER], "profile": "smoke"}, None),
    (
        [stored(9.0, stderr=1.0)],
        "defective",
        {"declared": [AIM], "profile": "smoke"},
        "seeds: declared 3",
    ),
    ([measured(9.0, seeds=2)], "not judged", {"declared": [PAPER], "profile": "smoke"}, None),
    ([stored(0.05, stderr=0.01, seeds=3)], "holds", {"declared": [AIM]}, None),
    ([measured(0.05)], "defective", {"declared": [replace(PAPER, constants=())]}, "vary each"),
    ([stored(0.05)], "holds", {"declared": [EXACT]}, None),
    (
        [stored(0.05, stderr=0.01)],
        "defective",
        {"declared": [EXACT]},
        "exact",
    ),
]


@pytest.mark.parametrize(("records", "outcome", "more", "words"), OUTCOMES)
def test_the_outcome(tmp_path, records, outcome, more, words):
    report = check(tmp_path, *records, **more)
    assert [row.outcome for row in report.rows] == [outcome] and report.count(outcome) == 1
    assert report.better == ()
    if words is None:
        assert report.problems == ()
    else:
        (problem,) = report.problems
        assert re.search(words, problem)


@pytest.mark.parametrize("timed", [True, False])
def test_seconds_of_another_machine_do_not_fail_the_build(tmp_path, timed, capsys, built):
    notebook(built / "part" / "chapter.ipynb", stored(0.2, stderr=0.01, seeds=3))
    path = written(tmp_path / "claims.yml", replace(AIM, timed=timed))
    status = ledger.main(["verify", "--claims", str(path), "--notebooks", str(built)])
    assert status == (not timed)
    assert ("SLOWER here: part.chapter.error" in capsys.readouterr().out) == timed
    report = ledger.verify(
        {CLAIM.chapter: built / "part" / "chapter.ipynb"}, ledger.load_claims(path)
    )
    assert [row.outcome for row in report.rows] == ["does not hold"]
    assert ("Slower than on" in pages.order(report)) == timed


@pytest.mark.parametrize(("value", "last"), [(0.05, "does not hold"), (0.2, "does not hold")])
def test_better_than_last_seen_is_said_and_passes(tmp_path, value, last, capsys, built):
    notebook(built / "part" / "chapter.ipynb", stored(value, stderr=0.01, seeds=3))
    path = written(tmp_path / "claims.yml", replace(AIM, last=last))
    assert ledger.main(["verify", "--claims", str(path), "--notebooks", str(built)]) == 0
    assert ("BETTER: part.chapter.error" in capsys.readouterr().out) == (value < 0.1)
    report = ledger.verify(
        {CLAIM.chapter: built / "part" / "chapter.ipynb"}, [replace(AIM, last=last)]
    )
    assert ("Better than the ledger" in pages.order(report)) == (value < 0.1)


@pytest.mark.parametrize(
    ("comparison", "below", "equal", "above"),
    [("<", 1, 0, 0), ("<=", 1, 1, 0), (">", 0, 0, 1), (">=", 0, 1, 1)],
)
def test_each_comparison(tmp_path, comparison, below, equal, above):
    claim = replace(CLAIM, comparison=comparison)
    found = [not check(tmp_path, stored(v), declared=[claim]).problems for v in (0.05, 0.1, 0.2)]
    assert found == [bool(below), bool(equal), bool(above)]
    wide = check(tmp_path, stored(0.1, stderr=0.01), declared=[claim])
    assert wide.problems, "within two standard errors nothing holds"
    aim = replace(AIM, comparison=comparison, last="does not hold")
    values = (0.05, 0.055, 0.1, 0.145, 0.15)  # the margin is 4.53 times 0.01
    found = [check(tmp_path, stored(v, stderr=0.01, seeds=3), declared=[aim]) for v in values]
    sides = ["holds", *["undecided"] * 3, "does not hold"]
    assert [report.rows[0].outcome for report in found] == sides[:: 1 if "<" in comparison else -1]


@pytest.mark.parametrize("seeds", [3, 5, 41, "standardised"])
def test_few_seeds_ask_for_more_standard_errors(tmp_path, seeds):
    """Student's quantile with n - 1 degrees of freedom, by scipy's own distribution."""
    coverage, counted = stats.norm.cdf(2), isinstance(seeds, int)
    expected = stats.t.ppf(coverage, seeds - 1) if counted else 2.0
    claim = replace(AIM, seeds=seeds)
    assert ledger.margin(claim) == pytest.approx(expected)
    for margin, outcome in ((1.01 * expected, "holds"), (0.99 * expected, "undecided")):
        evidence = {"stderr": 0.01, "seeds": seeds if counted else None}
        report = check(tmp_path, stored(0.1 - 0.01 * margin, **evidence), declared=[claim])
        assert [row.outcome for row in report.rows] == [outcome]
    assert ledger.margin(replace(AIM, seeds=3)) == pytest.approx(4.53, abs=0.01)
    if seeds == 3:
        assert "by 4.5 standard errors" in report.problems[0]


def test_chance_rarely_passes_three_seeds():
    """Of claims whose true value is the threshold, one in 44 holds, and one in 44 does not."""
    draws = np.random.default_rng(0).normal(0.1, 1.0, (20_000, 3))
    errors = draws.std(1, ddof=1) / math.sqrt(3)
    pairs = zip(draws.mean(1), errors, strict=True)
    found = [ledger.outcome(AIM, *pair) for pair in pairs]
    for outcome in ("holds", "does not hold"):
        share = found.count(outcome) / len(found)
        assert abs(share - stats.norm.cdf(-2)) < 6 * math.sqrt(0.0228 / 20_000)


def test_declared_in_a_chapter_that_did_not_run():
    assert "not executed" in ledger.verify({}, [CLAIM]).problems[0]


@pytest.mark.parametrize("profile", ["ci", "smoke"])
def test_an_optional_claim_may_be_skipped(tmp_path, profile):
    report = check(tmp_path, left_out(), declared=[OPTIONAL], profile=profile)
    assert report.problems == ()
    assert [row.outcome for row in report.rows] == ["skipped"]
    assert report.rows[0].record.note == "CIFAR-10 is not here"
    report.write(tmp_path / "claims.json")
    stated = json.loads((tmp_path / "claims.json").read_text())
    none = dict.fromkeys(ledger.OUTCOMES, 0)
    assert stated["summary"] == none | {"declared": 1, "skipped": 1}
    assert stated["claims"][0]["claim"]["needs"] == "cifar10"


def test_the_ledger_page_gives_the_reason(tmp_path):
    import nbformat
    from pages import ledger as page
    from pages import show_verdicts, summary

    report = check(tmp_path, left_out(), declared=[OPTIONAL])
    text = page(report, "check", CLAIM.paper)
    assert 'verdict-not-measured-here">not measured here<' in text
    assert "CIFAR-10 is not here" in text and "*Needs cifar10.*" in text
    assert "1 checks (1 not measured here)" in summary(report)
    assert "(cifar10)" in summary(report)
    executed = nbformat.from_dict(json.loads((tmp_path / "part" / "chapter.ipynb").read_text()))
    show_verdicts(executed, report, "part/chapter")
    row = executed.cells[1].outputs[0]["data"]["text/html"]
    assert 'id="claim-part.chapter.error"' in row
    assert "not measured" in row and "CIFAR-10 is not here" in row and "None" not in row


def written(path, claim=CLAIM, **changes):
    import yaml

    block = {name: getattr(claim, name) for name in claim.__dataclass_fields__}
    block |= {"constants": list(claim.constants) if claim.constants is not None else None} | changes
    block = {name: value for name, value in block.items() if value is not None}
    path.write_text(yaml.safe_dump([block]))
    return path


VARIED = replace(AIM, constants=("eps",))


@pytest.mark.parametrize("claim", [CLAIM, OPTIONAL, AIM, VARIED, PAPER, EXACT])
def test_a_ledger_is_read(tmp_path, claim):
    assert ledger.load_claims(written(tmp_path / "claims.yml", claim)) == (claim,)


@pytest.mark.parametrize(
    ("claim", "changes", "words"),
    [
        (CLAIM, {"comparison": "=="}, "comparison"),
        (CLAIM, {"kind": "fact"}, "kind"),
        (CLAIM, {"paper": "C"}, "paper"),
        (AIM, {"paper": "A"}, "paper: expected one of ours"),
        (PAPER, {"paper": "ours"}, "paper: expected one of A, B"),
        (CLAIM, {"threshold": "small"}, "threshold"),
        (CLAIM, {"threshold": math.nan}, "threshold"),
        (CLAIM, {"id": "Bad Id"}, "lower-case"),
        (CLAIM, {"quantity": None}, "quantity missing"),
        (CLAIM, {"extra": 1}, "extra unknown"),
        (CLAIM, {"last": "holds"}, "last unknown"),
        (CLAIM, {"constants": ["eps"]}, "constants unknown"),
        (CLAIM, {"needs": "CIFAR 10"}, "needs"),
        (CLAIM, {"needs": ""}, "needs"),
        (AIM, {"timed": "yes"}, "timed"),
        (CLAIM, {"needs": ["cifar10"]}, "needs"),
        (AIM, {"seeds": 2}, "seeds"),
        (AIM, {"seeds": True}, "seeds"),
        (AIM, {"seeds": "some"}, "seeds"),
        (AIM, {"seeds": None}, "seeds missing"),
        (AIM, {"last": "perhaps"}, "last"),
        (PAPER, {"control": None}, "control missing"),
        (PAPER, {"control": " "}, "control: expected words"),
        (PAPER, {"source": "rumour"}, "source"),
        (PAPER, {"constants": None}, "constants missing"),
        (PAPER, {"constants": "eps"}, "list of names"),
    ],
)
def test_a_malformed_ledger_is_refused(tmp_path, claim, changes, words):
    path = written(tmp_path / "claims.yml", claim, **changes)
    refused(words, ledger.load_claims, path, error=claims.ClaimsError)


def test_all_that_is_malformed_is_named_at_once(tmp_path):
    path = written(tmp_path / "claims.yml", PAPER, source="rumour", seeds=1)
    path.write_text(path.read_text() + "- {id: a.b, kind: fact}\n- words\n")
    for words in ("source", "seeds", "a.b: kind", "a block: kind"):
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
        (stored(0.05), None, 0, "1 holds, 0 undecided, 0 does not hold"),
        (stored(0.5), None, 1, "0 holds, 0 undecided, 1 does not hold"),
        (
            left_out(),
            "cifar10",
            0,
            "0 not judged, 1 skipped",
        ),
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


def row(outcome, claim=PAPER):
    return ledger.Row(claim, None, outcome)


HOLDS, REFUTED, CHECKED = row("holds"), row("does not hold"), row("holds", CLAIM)
OPEN = row("undecided")


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([], "shown"),
        ([row("skipped"), row("not judged")], "not measured here"),
        ([row("skipped"), CHECKED], "not measured here"),
        ([row("not judged", CLAIM)], "not measured here"),
        ([CHECKED], "checked"),
        ([CHECKED, row("does not hold", CLAIM)], "fails"),
        ([HOLDS, row("does not hold", CLAIM)], "fails"),
        ([HOLDS, row("skipped")], "reproduced"),
        ([HOLDS, CHECKED], "reproduced"),
        ([REFUTED], "not reproduced"),
        ([REFUTED, CHECKED], "not reproduced"),
        ([row("defective"), row("missing")], "not reproduced"),
        ([REFUTED, HOLDS], "partly"),
        ([HOLDS, row("defective")], "partly"),
        ([OPEN], "undecided"),
        ([OPEN, OPEN, CHECKED], "undecided"),
        ([OPEN, REFUTED], "not reproduced"),
        ([OPEN, HOLDS], "partly"),
    ],
)
def test_an_item_has_one_verdict(rows, verdict):
    assert pages.item_verdict(rows) == verdict
    unmeasured = "not measured here" if verdict == "shown" else verdict
    assert pages.item_verdict(rows, measurable=False) == unmeasured


def found(claim, value, outcome):
    return ledger.Row(
        claim, ledger.Record(claim.id, value, 0.01, "", claim.chapter, seeds=3), outcome
    )


ITEM = {"paper": "A", "item": "Figure 1", "title": "A picture", "where": ["fig-a"]}


def test_the_items_table_has_each_statement_with_its_number(monkeypatch):
    items = [ITEM | {"note": "Mind this."}, ITEM | {"item": "Figure 2"}]
    items += [ITEM | {"item": "Table 1", "unmeasured": "It takes a GPU."}]
    monkeypatch.setattr(pages, "load_items", lambda: items)
    against = replace(PAPER, id="part.chapter.against", sentence="It does not.")
    open_ = replace(PAPER, id="part.chapter.open", sentence="Perhaps.")
    rows = [found(PAPER, 0.0312, "holds"), found(against, 0.4, "does not hold")]
    rows += [found(open_, 0.09, "undecided"), CHECKED, row("missing", replace(AIM, id="a.ours"))]
    report = ledger.Report("ci", tuple(rows), ())
    text = pages.paper_items(report)
    text = text.replace("&nbsp;", " ")
    lines = re.search(r"  - (.*It does not.*)", text)[1].split("</span> <span")
    phrases = ["0.400 ± 0.010** (*n* = 3), not &lt; 0.1"]
    phrases += ["0.090 ± 0.010** (*n* = 3), undecided (&lt; 0.1)"]
    phrases += ["0.031 ± 0.010** (*n* = 3), &lt; 0.1", "Mind"]
    for line, phrase in zip(lines, phrases, strict=True):
        assert phrase in line, "what was missed comes first, the note last"
    assert "a.ours" not in text and "{numref}`fig-a`" in text and "It takes a GPU." in text
    words = "Of 3 items of the two papers: 1 partly, 1 shown, 1 not measured here."
    assert words in pages.summary(report)
    text += pages.ledger(report, "check", "A")
    shown = set(re.findall(r'<span class="verdict [^>]*>([^<]*)<', text))
    buttons = re.findall(r'<button type="button" aria-pressed="false" value="([^"]*)">\1<', text)
    assert sorted(shown) == buttons, "book.js compares the words of a row and of a button"
    assert "<form" in text and " hidden>" in text, "without scripts there is no filter"
    for claim in (PAPER, against, open_):
        assert f'href="claims.html#{claim.id}"' in text
        assert pages.papers_claims(report).count(f'id="{claim.id}"') == 1, "links end here"


def test_an_item_without_its_keys_is_refused(monkeypatch, tmp_path):
    (tmp_path / "reproduction").mkdir()
    monkeypatch.setattr(pages, "BOOK", tmp_path)
    path = tmp_path / "reproduction" / "items.yml"
    path.write_text("- {paper: A, item: Figure 1, title: A picture, why: none}")
    refused("expected the keys.*found.*why", pages.load_items, error=contents.BuildError)
    path.write_text("- {paper: A, item: Figure 1, title: A picture, where: [fig-a], note: Mind.}")
    assert pages.load_items()[0]["note"] == "Mind."


def test_a_box_shows_the_outcome_and_folds_the_rest(tmp_path):
    import nbformat

    claim = replace(PAPER, sentence="For $t < 1$ & $s$ it is small.")
    report = check(tmp_path, measured(0.05) | {"note": "a <note>"}, declared=[claim])
    executed = nbformat.read(tmp_path / "part" / "chapter.ipynb", as_version=4)
    pages.show_verdicts(executed, report, "part/chapter")
    shown, folded = executed.cells[1].outputs[0]["data"]["text/html"].split("<details>")
    assert ">holds<" in shown and "0.050 ± 0.010" in shown
    assert r'nohighlight">\(t &lt; 1\)</span> &amp; <span' in shown
    assert not {"relative error", "0.1", claim.id} & set(re.findall(r"[\w. ]+(?=[<;])", shown))
    for words in ("relative error", "&lt; 0.1", "a &lt;note&gt;", f"claims.html#{claim.id}"):
        assert words in folded
    for text in (folded, pages.papers_claims(report)):
        for words in ("zero: 0.4", "3 (4.5 standard errors are asked)", "eps: 0.05, 0.04"):
            assert words in text


def test_an_aim_may_name_constants(tmp_path):
    record = stored(0.05, stderr=0.01, seeds=3, constants={"eps": [0.05, 0.04]})
    report = check(tmp_path, record, declared=[VARIED])
    assert report.problems == () and "eps: 0.05, 0.04" in pages.own_claims(report)
    assert VARIED.id not in pages.papers_claims(report)
    record["constants"] = {"eps": [0.05, 0.2]}
    assert "hangs on eps" in check(tmp_path, record, declared=[VARIED]).problems[0]
    assert "not recorded" in pages.own_claims(check(tmp_path, declared=[VARIED]))


@pytest.mark.parametrize("outcome", ["does not hold", "undecided"])
def test_what_did_not_come_out_is_listed_from_the_outcomes(monkeypatch, outcome):
    monkeypatch.setattr(pages, "load_items", lambda: [ITEM | {"note": "Here is why."}])
    held = replace(PAPER, id="part.chapter.held")
    rows = found(PAPER, 0.3, outcome), found(held, 0.01, "holds")
    text = pages.missed(ledger.Report("ci", rows, ()))
    assert "0.300&nbsp;±&nbsp;0.010" in text and PAPER.sentence in text and "Here is why." in text
    assert held.id not in text and ">partly<" in text
    unjudged = [replace(row, outcome="not judged") for row in rows]
    assert "Nothing was judged" in pages.missed(ledger.Report("smoke", tuple(unjudged), ()))
    assert "everything" in pages.missed(ledger.Report("ci", rows[1:], ()))


def test_missed_aims_come_first():
    rows = [found(replace(AIM, id=f"a.{o[:4]}"), 0.3, o) for o in ("holds", "undecided")]
    text = pages.own_claims(ledger.Report("ci", tuple(rows), ()))
    assert text.index('id="a.unde"') < text.index('id="a.hold"')
    assert ">undecided<" in text and ">met<" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [(PAPER, ("holds", "does not hold")), (AIM, ("met", "missed")), (CLAIM, ("checked", "fails"))],
)
def test_each_kind_has_its_words(kind, words):
    assert tuple(pages.claim_verdict(row(o, kind)) for o in ("holds", "does not hold")) == words
    assert pages.claim_verdict(row("undecided", kind)) == "undecided"


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


def test_differences_opens_with_what_did_not_come_out():
    text = contents.page_path("reproduction/differences").read_text()
    first = text.split("\n## ")[1]
    assert first.startswith("What did not come out\n")
    assert len(first.split("```{include}")[0].split()) < 100, "the table is near the top"
    assert "/_generated/claims_missed.md" in first


def test_what_does_not_hold_has_a_reason_beside_its_verdict():
    items = pages.load_items()
    for claim in ledger.load_claims(contents.BOOK / "claims.yml"):
        if claim.kind == "paper" and claim.last == ledger.FAILS:
            about = [item for item in items if pages.is_about(claim, item)]
            assert about and all(item.get("note") for item in about), claim.id
