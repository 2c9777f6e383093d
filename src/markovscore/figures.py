"""Plot style and the few drawing helpers that two chapters need.

Nothing happens at import: call :func:`use_style` once, in a chapter's first cell.
The colours are Okabe and Ito's (2008), told apart under every common colour-vision deficiency;
``ROLES`` fixes which estimator wears which, so that a reader learns it once for the whole book.
Figures carry their own light background, hence they read the same on a dark page.
"""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

try:
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from cycler import cycler
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"markovscore.figures: expected matplotlib, found: {error}; "
        "install it with pip install 'markovscore[plot]'",
        name=error.name,
    ) from error

PALETTE = {
    "black": "#1a1a1a",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "pink": "#cc79a7",
    "sky": "#56b4e9",
    "amber": "#e69f00",
    "grey": "#7f7f7f",
}
ROLES = {
    "truth": PALETTE["black"],
    "oism": PALETTE["blue"],
    "network": PALETTE["orange"],
    "heat": PALETTE["green"],
    "james-stein": PALETTE["pink"],
    "none": PALETTE["amber"],
    "data": PALETTE["grey"],
}
DENSITY_CMAP = "viridis"
DIVERGING_CMAP = "RdBu_r"
PAGE_WIDTH = 7.2  # inches: the width of the text column
SCREEN_DPI = 110  # pixels of the page for an inch
LARGEST_SVG = 400_000  # characters

_STYLE = {
    "figure.figsize": (PAGE_WIDTH, 3.4),
    "figure.dpi": SCREEN_DPI,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "savefig.dpi": 160,
    "savefig.bbox": None,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10.5,  # on a phone PAGE_WIDTH is 350 pixels: 7 of them remain
    "ytick.labelsize": 10.5,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "axes.facecolor": "white",
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "image.cmap": DENSITY_CMAP,
    "image.origin": "lower",
    "text.usetex": False,
    "svg.hashsalt": "markovscore",  # the same figure gives the same file
}


def style() -> dict[str, Any]:
    """The book's rcParams, for ``with matplotlib.rc_context(figures.style()): ...``."""
    cycle = [PALETTE[name] for name in ("blue", "orange", "green", "pink", "sky", "amber", "black")]
    return _STYLE | {"axes.prop_cycle": cycler(color=cycle)}


def use_style() -> None:
    """Set the book's rcParams for the rest of the session (a chapter's first cell does).

    In a notebook, figures are shown by :func:`svg` from then on.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        plt.switch_backend(mpl.get_backend())  # which sets a formatter of its own, once
        formatters = shell.display_formatter.formatters
        for formatter in formatters.values():
            formatter.pop(Figure, None)
        formatters["image/svg+xml"].for_type(Figure, svg)
    mpl.rcParams.update(style())


def svg(figure: Figure) -> str:
    """``figure`` as SVG, cropped: letters are paths, so that it looks the same everywhere.

    What has many points is drawn as pixels, two for one of the page. A file of more than
    ``LARGEST_SVG`` characters is made smaller: fewer colours in its pixels, then more of the figure
    as pixels. The same figure gives the same text.
    """
    for most in (2000, 100):
        for artist in figure.findobj():
            if _points(artist) > most:
                artist.set_rasterized(True)
        file = io.StringIO()
        options: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.03}
        options |= {"dpi": 2 * SCREEN_DPI, "metadata": {"Date": None}}
        figure.savefig(file, format="svg", **options)
        text = file.getvalue()
        if len(text) > LARGEST_SVG:
            text = re.sub(r'(?<=image/png;base64,)[^"]+', _fewer_colours, text)
        if len(text) <= LARGEST_SVG:
            break
    points = re.compile(r'(width|height)="([\d.]+)pt"')
    return points.sub(lambda size: f'{size[1]}="{float(size[2]) * SCREEN_DPI / 72:.0f}"', text, 2)


def _fewer_colours(picture: re.Match[str]) -> str:
    """A PNG in base64 with 128 colours instead of all."""
    from PIL import Image  # Matplotlib needs it, too

    image = Image.open(io.BytesIO(base64.b64decode(picture[0])))
    opaque = image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
    file = io.BytesIO()
    image.convert("RGB" if opaque else "RGBA").quantize(128).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _points(artist: Any) -> int:
    """How many points an artist draws: markers of a scatter, or corners of its lines."""
    if isinstance(artist, Line2D):
        return len(np.asarray(artist.get_xydata()))
    if isinstance(artist, Collection):
        corners = sum(len(np.asarray(path.vertices)) for path in artist.get_paths())
        return max(len(np.asarray(artist.get_offsets())), corners)
    return 0


def panels(
    rows: int, columns: int, height: float = 2.4, width: float | None = None, **subplots: Any
) -> tuple[Figure, np.ndarray]:
    """A grid of axes, ``(rows, columns)`` always two-dimensional, ``height`` inches a row.

    ``subplots`` goes to :func:`matplotlib.pyplot.subplots` (``sharex``, ``sharey``, ...).
    """
    size = (PAGE_WIDTH if width is None else width, height * rows)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **subplots)


def density_axes(
    axes: Axes, low: float = -np.pi, high: float = np.pi, labels: Sequence[str] | None = None
) -> Axes:
    """Prepare axes for a picture of the plane: square, no grid, the same window everywhere.

    On the torus the ticks are -pi, 0, pi; elsewhere the two ends and the middle. ``labels`` names
    the two coordinates; None leaves them out (small multiples).
    """
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.grid(visible=False)
    ticks = [low, (low + high) / 2, high]
    on_torus = np.isclose(low, -np.pi) and np.isclose(high, np.pi)
    names = [r"$-\pi$", "0", r"$\pi$"] if on_torus else [f"{tick:.3g}" for tick in ticks]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    if labels is not None:
        axes.set(xlabel=labels[0], ylabel=labels[1])
    return axes


def show_density(
    axes: Axes, values: Any, low: float = -np.pi, high: float = np.pi, **imshow: Any
) -> AxesImage:
    """Draw ``values[i, j] = density(x1_i, x2_j)`` as an image on :func:`density_axes`.

    ``values`` has shape ``(n, n)`` on the grid of :func:`plane_grid`; ``imshow`` goes to
    :meth:`matplotlib.axes.Axes.imshow`.
    """
    density_axes(axes, low, high)
    options: dict[str, Any] = {"cmap": DENSITY_CMAP, "interpolation": "bilinear"} | imshow
    # imshow draws rows upwards as the second coordinate, hence the transpose
    return axes.imshow(np.asarray(values).T, extent=(low, high, low, high), **options)


def plane_grid(n: int, low: float = -np.pi, high: float = np.pi) -> np.ndarray:
    """Centres of an ``n`` by ``n`` grid, ``(n * n, 2)``; reshape what they give to ``(n, n)``."""
    edges = np.linspace(low, high, n + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    return np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)


def show_points(axes: Axes, points: Any, size: float = 2.0, **scatter: Any) -> None:
    """Scatter ``points`` of shape ``(n, 2)`` as small dots, rasterised so that files stay small."""
    xy = np.asarray(points)
    style = {"color": ROLES["oism"], "alpha": 0.5, "linewidths": 0, "rasterized": True}
    options: dict[str, Any] = style | scatter
    axes.scatter(xy[:, 0], xy[:, 1], s=size, **options)


def letter_panels(axes: Iterable[Axes], start: str = "a") -> None:
    """Write (a), (b), ... at the upper left of each axes, for captions to refer to."""
    for offset, one in enumerate(axes):
        one.set_title(f"({chr(ord(start) + offset)})", loc="left", fontweight="bold")
