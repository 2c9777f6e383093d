"""Bars: after two seconds, on stderr, where it is a terminal or where they are asked for."""

import sys
from functools import partial

import pytest
import torch
from odd_inputs import refused
from tqdm import tqdm

import markovscore as ms
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


def test_fits_have_bars(monkeypatch, capsys):
    """Of the folds and the levels, where they are asked for."""
    monkeypatch.setattr("markovscore.core.progress.tqdm", partial(tqdm, mininterval=0))
    monkeypatch.setattr(bar, "__defaults__", (0.0,))
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    ms.fit_spectral(x, ms.TorusBrownian(1), progress=True)
    shown = capsys.readouterr().err
    assert "folds" in shown and "noise levels" in shown
    ms.fit_spectral(x, ms.TorusBrownian(1), progress=False)
    assert capsys.readouterr().err == ""
    refused("progress", ms.fit_spectral, x, ms.TorusBrownian(1), progress="yes")
