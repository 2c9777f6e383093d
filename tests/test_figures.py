"""What a notebook shows of a figure: small SVG, the same each time, that a phone can show."""

import os
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from markovscore import figures


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context(figures.style()):
        yield
    plt.close("all")


def draw(points):
    figure, axes = figures.panels(1, 2)
    rng = np.random.default_rng(0)
    axes[0, 0].scatter(*rng.normal(size=(2, points)), s=3)
    axes[0, 1].plot(rng.normal(size=50), label="a line")
    axes[0, 1].set(xlabel="time $t$", title="a title")
    axes[0, 1].legend()
    return figure


def test_the_same_figure_gives_the_same_text():
    text = figures.svg(draw(3000))
    assert text == figures.svg(draw(3000))
    assert text != figures.svg(draw(3001))
    assert "dc:date" not in text


@pytest.mark.parametrize(("points", "pictures"), [(500, 0), (3000, 1)])
def test_what_is_dense_becomes_pixels(points, pictures):
    text = figures.svg(draw(points))
    assert text.count("<image") == pictures
    assert "<text" not in text, "letters are paths"


def test_a_heavy_figure_is_made_smaller():
    figure, axes = figures.panels(2, 2)
    rng = np.random.default_rng(0)
    for one in axes.flat:
        one.plot(rng.normal(size=(1000, 40)))
    assert len(figures.svg(figure)) < figures.LARGEST_SVG * 1.1


def test_no_letter_of_the_style_is_too_small_for_a_phone():
    text = figures.svg(draw(10))
    (width,) = map(float, re.findall(r'<svg[^>]*viewBox="0 0 ([0-9.]+)', text))
    sizes = [100 * float(s) for s in re.findall(r"scale\(([0-9.]+) -[0-9.]+\)", text)]
    assert len(sizes) > 10 and min(sizes) * 350 / width >= 7


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "agg"])
def test_a_notebook_shows_svg_and_nothing_else(backend, tmp_path):
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
from markovscore import figures
figures.use_style()
import matplotlib.pyplot as plt
formatter = shell.display_formatter
formatter.active_types = formatter.format_types  # as in a notebook
data, _ = formatter.format(plt.figure())
assert set(data) == {"image/svg+xml", "text/plain"}, set(data)
"""
    environment = os.environ | {"MPLBACKEND": backend, "IPYTHONDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
