r"""Sizes chosen by the held-out loss, in closed form (ours; mathematics, section 9).

A fit has coefficients ``alpha_t`` at the noise levels ``t``. For averages ``M'`` over points that
it has not seen, with ``A'_t`` and ``b'_t`` made of them, its loss relative to the stationary law is
``J'_t = 1/2 alpha_t^T A'_t alpha_t - alpha_t^T b'_t``, and

.. math:: G(t_1) = -2 \int_{t_1}^T J'_t\, dt + \sum_k \alpha_k(t_1) (1 - e^{\lambda_k t_1}) M'_k

estimates the held-out gain in log-likelihood over the stationary law, of the flow that starts at
the first level ``t_1``. The integral is the bound of score matching (paper B, Theorem 1; for
``G = sqrt2 I``), for points with the noise of ``t_1``. The sum is what the points without noise
have more: it is the difference of the averages of the fitted ``h_{t_1}`` under the two laws, so
that the first levels can be compared, and exact where ``h_{t_1}`` is the logarithm of the flow's
density.

All sizes come from one factorisation for each fold, heat and level: with functions in the order of
their rows the leading block of the Cholesky factor is the factor of the leading block, the forward
substitution serves all, and each size is one right-hand side of the back substitution. A size
whose system is singular to rounding has an infinite loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..core import bar, check_generator
from ..eigenbasis import Eigenbasis, Moments, Numerical
from .sample import Sample
from .shrinkage import one_more, shrink, stein_heat

FOLDS = 5
FEWEST = 10  # points, of the weights' effective size: two in each fold
_START, _MOST = 240, 960  # functions in the first and the last pool
_PLANE = 120, 480  # where they are no products: eigenproblems and averages cost their cube
_FEW = 60  # in the first one, on a line whose functions are found numerically
_SEEN = 4.0  # standard errors of an average that is not there by chance
_SIZES = 3  # in each factor of two
_HEATS: tuple[float, ...] = (0.25, 1.0, 2.0, 4.0, 8.0)  # times Stein's unbiased choice
_BLOCK = 2**20  # entries of a working block: 8 MiB in double precision stay in cache
_NAMES = ("sizes", "heats", "mixes", "firsts", "gains")


@dataclass(frozen=True, eq=False)
class Selection:
    """How the sizes of a fit were chosen; ``score.selection``.

    Attributes:
        n_functions: the chosen number of functions.
        heat: the chosen shrinkage: the averages are those of the law
            ``mix P*_heat rho_0 + (1 - mix) pi``.
        mix: likewise.
        first: the chosen first noise level.
        sizes: ``(S,)`` int64, the numbers of functions that were compared.
        heats: ``(H,)`` float64, the shrinkages that were compared.
        mixes: likewise.
        firsts: ``(F,)`` float64, the first levels.
        gains: ``(folds, H, F, S)`` float64, the held-out log-likelihood in closed form, nats a
            point more than the stationary law.
        seconds: of the choice.
    """

    n_functions: int
    heat: float
    mix: float
    first: float
    sizes: Tensor
    heats: Tensor
    mixes: Tensor
    firsts: Tensor
    gains: Tensor
    seconds: float

    def curve(self) -> tuple[Tensor, Tensor]:
        """The loss at each size, ``(S,)``, and its standard error over the folds, with the chosen
        shrinkage and first level: minus the held-out gain, in nats a point."""
        shrinkage = (self.heats == self.heat) & (self.mixes == self.mix)
        h, f = (int(at.nonzero()[0]) for at in (shrinkage, self.firsts == self.first))
        losses = -self.gains[:, h, f]
        return losses.mean(0), losses.std(0) / len(losses) ** 0.5

    def plot(self, ax: Any = None) -> Any:
        """Draw the curve, with its standard errors and the chosen size; returns the axes."""
        import matplotlib as mpl
        import matplotlib.pyplot as plt

        from ..figures import style  # which says how to install matplotlib

        loss, error = (part.numpy() for part in self.curve())
        with mpl.rc_context(style()):
            ax = plt.subplots()[1] if ax is None else ax
            ax.errorbar(self.sizes.numpy(), loss, error, color="C0", marker="o")
            ax.axvline(self.n_functions, color="C1", linestyle="--")
            ax.set(xscale="log", xlabel="number of functions", ylabel="held-out loss [nats]")
        return ax

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds."""
        return {
            f"selection.{one.name}": torch.as_tensor(
                value, dtype=None if isinstance(value, Tensor) else torch.float64
            )
            for one in fields(self)
            for value in [getattr(self, one.name)]
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Selection | None:
        """The inverse of :meth:`tensors`; None where a file has none."""
        if "selection.sizes" not in tensors:
            return None
        found = {one.name: tensors[f"selection.{one.name}"] for one in fields(cls)}
        numbers = {k: float(v) for k, v in found.items() if k not in _NAMES}
        return cls(**found | numbers | {"n_functions": int(numbers["n_functions"])})  # type: ignore[arg-type]


def choose(
    sample: Sample, pools: Callable[[int], Eigenbasis], rule: str | None, levels: Tensor,
    firsts: int, floor: float = 0.0, generator: torch.Generator | None = None,
    progress: bool | None = None,
) -> tuple[Selection, Eigenbasis]:  # fmt: skip
    """Number of functions, shrinkage and first level by cross-validation over five random folds.

    ``pools``: the basis of so many functions. ``rule`` None: a few heats around Stein's unbiased
    choice, each with one observation from the stationary law; else that of
    :func:`~markovscore.spectral.shrink`. ``levels`` ``(T,)``: fewer and log-spaced, of which the
    first ``firsts`` may be the first of the fit; ``floor``: a heat added to all. The pool of
    functions doubles while its best size is one of its two largest, of functions that are no
    products also a standard error better than the best of its half; then only the best heat and
    its neighbours go on.
    """
    started = time.perf_counter()
    folds, shares = _folds(sample, generator), _HEATS
    products = bool(pools(2).axes)
    few, most = (_START, _MOST) if products else _PLANE
    cap = int(min(most, sample.size / 2)) // 2 * 2
    count = _first_pool(sample, pools, min(few, cap))
    while True:
        pool = pools(count)
        whole = sample.moments(pool)
        shrinkages = _shrinkages(whole, rule, shares)
        selection = _compared(
            sample, whole, folds, pool, shrinkages, levels, firsts, floor, progress
        )
        if count == cap or selection.n_functions < selection.sizes[-2]:
            break
        if not products and _level(selection):
            break
        count = min(2 * count, cap)
        best = int((selection.heats == selection.heat).nonzero()[0])
        shares = shares[max(0, best - 1) : best + 2]
    rows = int((_counts(pool) == selection.n_functions).nonzero()[0]) + 1
    seconds = time.perf_counter() - started
    return (
        Selection(**{**vars(selection), "seconds": seconds}),
        pool.with_indices(pool.indices[:rows]),
    )


def _first_pool(sample: Sample, pools: Callable[[int], Eigenbasis], most: int) -> int:
    """The number of functions in the first pool. On a line few reach far, and eigenproblems cost
    their cube; but a comb may have no average of the first ones, so that twice as many are looked
    at: where one of the second half stands out, the pool is large at once."""
    if most <= _FEW or sample.x.shape[1] > 1 or not isinstance(pools(2).axes[0], Numerical):
        return most
    moments, start = sample.moments(pools(2 * _FEW)), torch.zeros(1, dtype=torch.float64)
    seen = moments.slope(start)[0].abs() > _SEEN * moments.slope_errors(start)[0]
    return most if bool(seen[_FEW:].any()) else _FEW


def _level(selection: Selection) -> bool:
    """Whether the second half of the functions brought less than a standard error."""
    loss, error = selection.curve()
    half = loss[selection.sizes <= int(selection.sizes[-1]) / 2]
    best = int(loss.argmin())
    return bool(half.min() < loss[best] + error[best])


def _folds(sample: Sample, generator: torch.Generator | None) -> Tensor:
    """The fold of each point, ``(N,)``: equal numbers of them, at random."""
    if sample.size < FEWEST:
        kind = "points" if sample.weights is None else "points, as many as the weights amount to"
        raise ValueError(
            f"x: expected {FEWEST} {kind}, or more, to choose the number of functions by "
            f"cross-validation, found {sample.size:.3g}: pass more, or n_functions and shrinkage"
        )
    check_generator(generator)
    if generator is None:  # the same folds for the same data
        generator = torch.Generator().manual_seed(0)
    n = len(sample.x)
    order = torch.randperm(n, generator=generator, device=generator.device).to(sample.x.device)
    return order % FOLDS


def _compared(
    sample: Sample, whole: Moments, folds: Tensor, pool: Eigenbasis,
    shrinkages: tuple[Tensor, Tensor], levels: Tensor, firsts: int, floor: float,
    progress: bool | None,
) -> Selection:  # fmt: skip
    """The best of all sizes of a pool, of ``mix`` and ``heat`` ``(H,)``, and of first levels;
    ``whole``: averages over all points."""
    (mixes, heats), sizes = shrinkages, _sizes(pool)
    laws = list(zip(mixes.tolist(), (heats + floor).tolist(), strict=True))
    gains, shares = [], []
    for fold in bar(range(FOLDS), f"folds, up to {pool.n_functions} functions", progress):
        held = folds == fold
        test, share = sample.part(held).moments(pool), sample.share(held)
        train = whole.without(test, share) or sample.part(~held).moments(pool)
        path = Path(pool, test, levels, sizes)
        gains.append(path.gains(train, laws)[:, :firsts])
        shares.append(share)
    table = torch.stack(gains).cpu()
    mean = torch.einsum("f,f...->...", torch.tensor(shares, dtype=table.dtype), table)
    best = int(mean.argmax())
    h, f, s = (int(i) for i in torch.unravel_index(torch.tensor(best), mean.shape))
    chosen = int(sizes[s]), float(heats[h]), float(mixes[h]), float(levels[f])
    return Selection(*chosen, sizes, heats, mixes, levels[:firsts].cpu(), table, 0.0)


def _shrinkages(
    moments: Moments, rule: str | None, shares: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """``mix`` and ``heat`` ``(H,)`` of the candidates, with these shares of Stein's heat."""
    if rule is not None:
        fixed = shrink(moments, rule)
        found = [(fixed.mix, fixed.heat)]
    else:
        stein, mix = stein_heat(moments), one_more(moments).mix
        found = [(mix, heat) for heat in sorted({share * stein for share in shares})]
    mixes, heats = torch.tensor(found, dtype=torch.float64).unbind(1)
    return mixes, heats


def rows_of(basis: Eigenbasis) -> Tensor:
    """The row of ``basis.indices`` that each function is of, ``(K,)``."""
    return torch.cat([torch.arange(len(basis.indices)), basis.waves.nonzero()[:, 0]])


def _counts(basis: Eigenbasis) -> Tensor:
    """The number of functions of the first ``1, 2, ..., M`` rows."""
    return rows_of(basis).bincount().cumsum(0)


def _sizes(pool: Eigenbasis) -> Tensor:
    """Log-spaced down from the whole pool, numbers of functions of whole rows."""
    counts = _counts(pool)
    wanted = pool.n_functions * 2 ** (-torch.arange(0, 64) / _SIZES)
    at = torch.searchsorted(counts.double(), wanted.double(), right=True) - 1
    return counts[at.clamp(min=0)].unique()


class Path:
    """Held-out gains of all sizes ``(S,)`` of a pool, at all first levels ``(T,)``.

    ``test``: averages over the points held out.
    """

    def __init__(self, pool: Eigenbasis, test: Moments, levels: Tensor, sizes: Tensor) -> None:
        device = test.mean.device
        self._order = rows_of(pool).argsort(stable=True).to(device)
        self._rates = pool.eigenvalues.to(device)[self._order]
        self._test, self._levels = test.reordered(self._order), levels.to(device)
        place = torch.arange(pool.n_functions, device=device)
        self._sizes = sizes.to(device)
        self._masks = (place[:, None] < self._sizes).double()
        still = self._test.slope(torch.zeros(1, dtype=torch.float64, device=device))[0]
        self._means = -still / self._rates
        self._block = max(1, _BLOCK // pool.n_functions**2)

    def gains(self, train: Moments, shrinkages: Sequence[tuple[float, float]]) -> Tensor:
        """``(H, T, S)`` of the fits to averages ``train`` with each ``mix`` and ``heat``."""
        ordered = train.reordered(self._order)
        fits = [ordered.shrunk(*one) for one in shrinkages]
        parts = [self._parts(fits, levels) for levels in self._levels.split(self._block)]
        losses, more = (torch.cat(found, 1) for found in zip(*parts, strict=True))
        return more - 2 * _integrals(losses, self._levels)

    def _parts(self, fits: Sequence[Moments], levels: Tensor) -> tuple[Tensor, Tensor]:
        """``J'_t``, and what the points have more without noise, ``(H, T', S)``."""
        energy, slope = self._test.energy(levels), self._test.slope(levels)
        noise = self._means * -torch.expm1(levels[:, None] * self._rates)
        losses, more = [], []
        for fit in fits:
            alpha, exist = self._coefficients(fit, levels)
            loss = (alpha * (0.5 * energy @ alpha - slope[..., None])).sum(1)
            losses.append(torch.where(exist, loss, torch.inf))
            more.append((noise[..., None] * alpha).sum(1))
        return torch.stack(losses), torch.stack(more)

    def _coefficients(self, fit: Moments, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Of all sizes at each level, ``(T', K, S)``, zero beyond each size; and whether they
        exist, ``(T', S)``: to rounding, a leading block may be singular, and all larger ones."""
        factors, failed = fit.leading(levels)
        exist = (failed[:, None] == 0) | (self._sizes < failed[:, None])
        for i in failed.nonzero()[:, 0].tolist():
            rest = slice(int(failed[i]) - 1, None)
            factors[i, rest] = torch.eye(len(factors[i])).to(factors)[rest]
        half = torch.linalg.solve_triangular(factors, fit.slope(levels)[..., None], upper=False)
        return torch.linalg.solve_triangular(factors.mT, half * self._masks, upper=True), exist


def _integrals(losses: Tensor, levels: Tensor) -> Tensor:
    """``int_{t_i}^{t_T} J dt`` ``(H, T, S)`` for every level: trapezoids in ``log t``, in which
    ``t J_t`` is smooth; of a single level, its own."""
    scaled = losses * levels[:, None]
    if len(levels) == 1:
        return scaled
    parts = 0.5 * (scaled[:, 1:] + scaled[:, :-1]) * levels.log().diff()[:, None]
    sums = parts.flip(1).cumsum(1).flip(1)
    return torch.cat([sums, torch.zeros_like(losses[:, :1])], 1)
