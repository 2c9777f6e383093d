"""Spectral score matching against its floors and against what a user would write instead."""

import math
import resource
import subprocess
import sys

import torch
from lib.timing import median, paired, ratio, report

import markovscore as ms

TORUS = ms.TorusBrownian(2)
TIMES = torch.logspace(math.log10(0.0022), math.log10(4.0), 160, dtype=torch.float64)
LEVELS = torch.cat([torch.tensor([0.002], dtype=torch.float64), TIMES])


def data(n: int = 10_000) -> torch.Tensor:
    """Pinwheel points scaled to max |x| = 2.6."""
    x = ms.toy("pinwheel", n, torch.Generator().manual_seed(0), torch.float64)
    return x * (2.6 / x.abs().max())


def fit() -> dict[str, float]:
    """200 functions, 10,000 points, 160 levels: each part beside the LAPACK solve."""
    x, basis = data(), TORUS.eigenbasis(200)
    moments = basis.moments(x)
    energy, slope = moments.energy(TIMES), moments.slope(TIMES)[..., None]
    seconds = paired(
        {
            "moments": lambda: basis.moments(x),
            "assembly": lambda: moments.energy(TIMES),
            "solve": lambda: torch.cholesky_solve(slope, torch.linalg.cholesky(energy)),
            "fit": lambda: ms.fit_spectral(x, TORUS, 200, TIMES),
            "greedy": lambda: ms.fit_spectral(x, TORUS, 200, TIMES, selection="greedy"),
        }
    )
    parts = zip(seconds["moments"], seconds["assembly"], strict=True)
    seconds["both"] = [m + a for m, a in parts]
    return {
        "seconds: moments": median(seconds["moments"]),
        "seconds: assembly of A_t": median(seconds["assembly"]),
        "seconds: batched Cholesky solve": median(seconds["solve"]),
        "seconds: whole fit (target < 1)": median(seconds["fit"]),
        "seconds: whole fit with greedy selection": median(seconds["greedy"]),
        "(moments + assembly) / solve (target <= 1)": ratio(seconds, "both", "solve"),
    }


def torus_in(d: int, k: int, n: int, levels: torch.Tensor) -> dict[str, float]:
    """A fit of ``k`` waves in ``d`` dimensions beside what it cannot do without: the product of
    the waves with themselves, which holds every average, and the factorisation of each level."""
    torus, draws = ms.TorusBrownian(d), torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(n, d, generator=draws, dtype=torch.float64)
    basis = torus.eigenbasis(k)
    energy = basis.moments(x).energy(levels)

    def product() -> torch.Tensor:
        waves = torch.exp(1j * (x @ basis.indices.double().T))
        return waves.mH @ waves

    candidates = {
        "fit": lambda: ms.fit_spectral(x, torus, k, levels),
        "cholesky": lambda: torch.linalg.cholesky(energy),
        "floor": lambda: (product(), torch.linalg.cholesky(energy)),
    }
    seconds = paired(candidates, rounds=3)
    name = f"d = {d}, K = {k}, N = {n:,}, T = {len(levels)}"
    return {
        f"seconds, {name}": median(seconds["fit"]),
        f"batched Cholesky alone, {name}": median(seconds["cholesky"]),
        f"fit / (complex product + Cholesky), {name}": ratio(seconds, "fit", "floor"),
        f"fit / Cholesky, {name}": ratio(seconds, "fit", "cholesky"),
    }


def sizes() -> dict[str, float]:
    """Fits with fixed sizes: seconds against N, K, d and T, and a plane of polynomials in 13."""
    found: dict[str, float] = {}
    for d, k, n in ((2, 100, 10_000), (2, 600, 10_000), (4, 200, 10_000), (10, 200, 2_000)):
        found |= torus_in(d, k, n, TIMES)
    found |= torus_in(2, 100, 100_000, TIMES)
    found |= torus_in(2, 100, 10_000, TIMES[::8])
    x = torch.randn(2_000, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    line = ms.OrnsteinUhlenbeck(13)
    seconds = paired({"fit": lambda: ms.fit_spectral(x, line, 104)}, rounds=3)
    return found | {"seconds: polynomials, d = 13, K = 104 (target < 1)": median(seconds["fit"])}


def evaluate() -> dict[str, float]:
    """Score and divergence at 100,000 points: separable, its matrix products alone, every wave."""
    score = ms.fit_spectral(data(), TORUS, 200, TIMES)
    x = (torch.rand(100_000, 2, dtype=torch.float64) * 2 - 1) * math.pi
    basis, alpha = score.basis, score.at(0.1)
    width, block = basis.feature_count(basis.order), 1024
    real = torch.randn(3 * width, width, dtype=torch.float64), torch.randn(width, block).double()
    rows = 3 * (basis.order + 1)  # a half-plane of waves: k_1 >= 0
    waves_in = torch.randn(width, block, dtype=torch.complex128)
    wave_products = torch.randn(rows, width, dtype=torch.complex128), waves_in
    k = basis.indices.double()
    cosines, sines = (math.sqrt(2) * alpha).chunk(2)

    def products(left: torch.Tensor, right: torch.Tensor) -> None:
        for _ in range(0, len(x), block):
            torch.mm(left, right)

    def waves() -> tuple[torch.Tensor, torch.Tensor]:
        wave = torch.exp(1j * (x @ k.T)) * torch.complex(cosines, -sines)
        return -wave.imag @ k, -wave.real @ k.square().sum(1)

    expected, found = waves(), score.score_and_divergence(x, 0.1)
    assert torch.allclose(found[0], expected[0], atol=1e-9 * float(expected[0].abs().max()))
    candidates = {
        "separable": lambda: score.score_and_divergence(x, 0.1),
        "complex": lambda: products(*wave_products),
        "real": lambda: products(*real),
        "waves": waves,
    }
    seconds = paired(candidates)
    powers = ratio(seconds, "separable", "complex")
    return {
        "seconds: separable": median(seconds["separable"]),
        "separable / products of complex powers (target <= 2)": powers,
        "separable / its own, real, products": ratio(seconds, "separable", "real"),
        "every wave / separable (target >= 3)": ratio(seconds, "waves", "separable"),
        "MB, whole process, at 1,000,000 points (target < 1000)": memory(),
    }


def memory() -> float:
    """Peak memory of one evaluation at a million points, in a process of its own."""
    command = [sys.executable, __file__, "--memory"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _memory() -> None:
    score = ms.fit_spectral(data(1000), TORUS, 200, TIMES)
    x = torch.rand(1_000_000, 2, dtype=torch.float64)
    score.score_and_divergence(x, 0.1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def likelihood() -> dict[str, float]:
    """Log-likelihood of 4,000 points in 400 evaluations, beside the score's own cost."""
    score = ms.fit_spectral(data(), TORUS, 200, LEVELS)
    x = data(4_000)
    candidates = {
        "likelihood": lambda: ms.log_likelihood(score, TORUS, x, steps=200),
        "score": lambda: [score.score_and_divergence(x, 0.1) for _ in range(400)],
    }
    seconds = paired(candidates, rounds=3)
    return {
        "seconds (target < 10)": median(seconds["likelihood"]),
        "likelihood / 400 evaluations of the score": ratio(seconds, "likelihood", "score"),
    }


if __name__ == "__main__":
    if "--memory" in sys.argv:
        _memory()
    else:
        report({"fit": fit(), "sizes": sizes(), "evaluate": evaluate(), "likelihood": likelihood()})
