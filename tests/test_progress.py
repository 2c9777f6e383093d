"""Bars: after two seconds, on stderr, where it is a terminal or where they are asked for."""

import sys

import pytest
from odd_inputs import refused

from markovscore.core import bar, check_progress


def test_it_yields_the_items():
    assert list(bar(range(5), "count", True)) == [0, 1, 2, 3, 4]
    assert list(bar([], "count", None)) == []


@pytest.mark.parametrize(
    ("asked", "terminal", "shown"),
    [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_who_sees_a_bar(asked, terminal, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    list(bar(range(5), "count", asked, delay=0))
    out, err = capsys.readouterr()
    assert out == ""
    assert ("count" in err) == shown


def test_nothing_is_shown_of_what_is_short(capsys):
    list(bar(range(5), "count", True))
    assert capsys.readouterr().err == ""


def test_bad_input():
    refused("progress: expected True, False or None", check_progress, "yes")
