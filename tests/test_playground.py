"""The playground: its JavaScript fits what the package fits."""

import json
import math
import os
import subprocess
from pathlib import Path

import playground
import pytest
import torch
from conftest import ROOT

import markovscore as ms

playwright = pytest.importorskip("playwright", reason="playwright brings node: no test extra")
NODE = Path(playwright.__file__).parent / "driver" / "node"
# Set, points, functions, first level, shrinkage.
FIXTURES = (
    ("pinwheel", 1500, 200, 0.05, "heat"),
    ("pinwheel", 400, 400, 0.003, "heat+1"),
    ("2spirals", 1500, 200, 0.003, "heat+1"),
    ("2spirals", 1500, 40, 0.02, "none"),
    ("checkerboard", 1000, 120, 0.003, "heat"),
    ("checkerboard", 3000, 60, 0.02, "none"),
    ("angles", 1500, 80, 0.003, "heat+1"),
    ("angles", 200, 8, 0.003, "none"),
    ("circle", 500, 60, 0.02, "heat"),
    ("circle", 1000, 24, 0.02, "none"),
)
# A_t nearly singular: two solutions of one system differ by its condition number times rounding,
# so that the coefficients cannot agree to 1e-8.
SINGULAR = (("pinwheel", 1500, 200, 0.003, "heat"), ("circle", 500, 60, 0.003, "heat"))


def drawn(name: str, n: int, generator: torch.Generator) -> torch.Tensor:
    if name == "circle":
        return ms.mixture_1d(ms.TorusBrownian(1)).sample(n, generator, dtype=torch.float64)
    if name == "angles":
        return ms.datasets.protein_angles(n, generator, torch.float64)
    x = ms.toy(name, n, generator, torch.float64)
    return 2.6 * x / x.abs().max()


def pairs(x: torch.Tensor) -> list[float]:
    """Points ``(n, 1)`` or ``(n, 2)`` as pairs, of the circle with a zero."""
    return torch.nn.functional.pad(x, (0, 2 - x.shape[1])).flatten().tolist()


def fixture(name: str, n: int, count: int, first: float, rule: str) -> dict[str, object]:
    generator = torch.Generator().manual_seed(count)
    x = drawn(name, n, generator)
    torus = ms.TorusBrownian(x.shape[1])
    times = torch.logspace(torch.tensor(first).log10(), 0.6, 5, dtype=torch.float64)
    score = ms.fit_spectral(x, torus, count, times, shrinkage=rule)
    places = torus.prior.sample(40, generator).double()
    moments = score.basis.moments(x)
    shrunk = ms.spectral.shrink(moments, rule)
    energy = moments.shrunk(shrunk.mix, shrunk.heat).energy(times)
    return {
        "name": f"{name}, {n} points, {count} functions, {rule}",
        "points": pairs(x),
        "count": count,
        "dim": x.shape[1],
        "times": times.tolist(),
        "rule": rule,
        "waves": score.basis.indices.tolist(),
        "mix": shrunk.mix,
        "heat": shrunk.heat,
        "coefficients": score.coefficients.tolist(),
        "conditions": torch.linalg.cond(energy).tolist(),
        "places": pairs(places),
        "scores": pairs(score(places, float(times[0]))),
        "carried": pairs(ms.sample_ode(score, torus, 40, times=times, x_T=places)),
    }


def law() -> dict[str, object]:
    """The mixture of the chapters on the circle, at one time."""
    mixture, x = ms.mixture_1d(ms.TorusBrownian(1)), torch.linspace(-3, 3, 31).double()[:, None]
    density, score = mixture.log_prob(x, 0.1).exp(), mixture.score(x, 0.1)[:, 0]
    values = {"places": x[:, 0], "density": density, "score": score}
    return {"time": 0.1} | {name: value.tolist() for name, value in values.items()}


def kernel(start: float, h: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Transition density of the double well on a grid, ``(N,)`` each, by another way than the
    playground's: in the sinc basis of Colbert and Miller, to rounding, the Schroedinger operator
    ``(f^2 + f' - Laplacian) / 2`` has the kernel ``K`` and ``rho = e^(V(y) - V(x)) K_h(x, y)``."""
    step, n = 1 / 24, 108
    k = torch.arange(-n, n + 1, dtype=torch.float64)
    x, apart = step * k, k[:, None] - k
    kinetic = (-1) ** apart.abs() / apart.square()
    kinetic.fill_diagonal_(math.pi**2 / 6)
    f, slope, potential = x - x**3, 1 - 3 * x**2, x**4 / 4 - x**2 / 2
    H = kinetic / step**2 + torch.diag((f.square() + slope) / 2)
    place = n + round(24 * start)
    K = torch.matrix_exp(-h * H)[:, place] / step
    return x, (potential[place] - potential).exp() * K


def window(start: float, h: float) -> dict[str, object]:
    """Truth and linearisation of the double well, from a multiple of 1/24."""
    x, rho = kernel(start, h)
    step = float(x[1] - x[0])
    mean = step * float(rho @ x)
    y = torch.tensor([[start]], dtype=torch.float64)
    m, P = (float(u) for u in ms.local_transition(ms.DoubleWell(), y, 0.0, h))
    gauss = torch.distributions.Normal(m, math.sqrt(P)).log_prob(x).exp()
    return {
        "start": start,
        "window": h,
        "linearised": {"mean": m, "variance": P},
        "mean": mean,
        "variance": step * float(rho @ (x - mean).square()),
        "variation": step * float((rho - gauss).clamp(min=0).sum()),
        "places": x.tolist(),
        "density": rho.tolist(),
    }


def windows() -> list[dict[str, object]]:
    """Starts and windows between those of the table, and some of its own."""
    starts = [k / 24 for k in (-43, -14, 1, 5, 14, 22, 24, 34, 48)]
    return [window(y, h) for y in starts for h in (0.02, 0.034, 0.1, 0.3, 0.76, 1.28)]


def test_javascript_fits_what_python_fits(tmp_path):
    path = tmp_path / "fixtures.json"
    fits, singular = ([fixture(*given) for given in group] for group in (FIXTURES, SINGULAR))
    assert all(max(given["conditions"]) > 1e9 for given in singular)
    given = {"fits": fits, "singular": singular, "law": law()}
    given |= {"windows": windows(), "transitions": playground.transitions()}
    path.write_text(json.dumps(given))
    done = subprocess.run(
        [str(NODE), "--test", "--test-reporter=tap", "tests/playground/"],
        cwd=ROOT,
        env=os.environ | {"PLAYGROUND_FIXTURES": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
