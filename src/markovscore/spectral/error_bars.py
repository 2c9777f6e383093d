r"""Error bars of a fit: the jackknife over blocks of points (ours; mathematics, section 9).

The points are divided at random into ``m`` blocks. The fit is repeated without each of them, with
the same functions, noise levels and shrinkage: a solve from other averages. For a number
``\theta`` made of a score, with ``\theta_{(j)}`` the one without block ``j``,

.. math:: \mathrm{se}^2 = \frac{m-1}{m} \sum_j (\theta_{(j)} - \bar\theta_{(\cdot)})^2

(Tukey 1958; Shao and Tu, *The Jackknife and Bootstrap*, 1995, chapter 2.3). It is the spread of the
estimator about its own mean at these sizes: neither its bias, which more functions lower, nor the
choice of the sizes is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import DiffusionLike, as_diffusion, as_tensor, check_generator, check_integer, lasting
from .fit import canonical, make_plan, score_of
from .product import SpectralScore
from .sample import read_sample


@dataclass(frozen=True, eq=False)
class Jackknife:
    """A fit and those that leave out one block each; made by :func:`markovscore.jackknife`.

    Attributes:
        score: fitted to all points.
        replicates: fitted to all points but one block, of the same sizes.
    """

    score: SpectralScore
    replicates: tuple[SpectralScore, ...]

    def __call__(self, functional: Callable[[SpectralScore], Any]) -> tuple[Tensor, Tensor]:
        """``functional(score)`` and its standard error, both of its shape, float64.

        ``functional``: any numbers made of a score, such as ``lambda s: s(x, 0.1)`` or
        ``lambda s: ms.log_likelihood(s, torus, x)``; it is called once for each replicate, and
        randomness in it must come from a seed of its own.
        """
        value, *others = (
            as_tensor(functional(score), "functional", torch.float64).detach()
            for score in (self.score, *self.replicates)
        )
        count = len(others)
        return value, ((count - 1) * torch.stack(others).var(0, correction=0)).sqrt()

    def plot(
        self, at: Any, functional: Callable[[SpectralScore], Any], ax: Any = None, width: float = 2
    ) -> Any:
        """Draw ``functional(score)`` ``(n,)`` over ``at`` ``(n,)``, with a band of ``width``
        standard errors on either side; returns the axes."""
        import matplotlib as mpl
        import matplotlib.pyplot as plt

        from ..figures import style  # which says how to install matplotlib

        value, error = (part.numpy() for part in self(functional))
        place = as_tensor(at, "at", torch.float64).numpy()
        if place.shape != value.shape or value.ndim != 1:
            raise ValueError(
                f"at: expected one number for each of functional(score), (n,), found shapes "
                f"{place.shape} and {value.shape}"
            )
        with mpl.rc_context(style()):
            ax = plt.subplots()[1] if ax is None else ax
            line = ax.plot(place, value)[0]
            low, high = value - width * error, value + width * error
            ax.fill_between(place, low, high, color=line.get_color(), alpha=0.25, lw=0)
        return ax


@lasting
def jackknife(
    x: Any,
    diffusion: DiffusionLike,
    n_functions: int | None = None,
    times: Any = None,
    *,
    n_blocks: int = 20,
    generator: torch.Generator | None = None,
    shrinkage: str | None = None,
    selection: str = "eigenvalue",
    weights: Any = None,
    nan: str = "raise",
    wrap: bool = False,
) -> Jackknife:
    """Fit, and fit again without each of ``n_blocks`` random blocks of points: error bars for any
    number made of the score.

    ``bars = ms.jackknife(x, torus)``, then ``value, error = bars(lambda s: s(points, 0.1))``.

    Args:
        n_blocks: number of blocks, from 2 to half the points; the error itself is known to about
            one part in ``sqrt(2 (n_blocks - 1))``.
        generator: draws the folds of the choice, then the blocks; by default always the same.
        x, diffusion, n_functions, times, shrinkage, selection, weights, nan, wrap: as in
            :func:`~markovscore.fit_spectral`. What is chosen is chosen once, from all points.

    Raises as :func:`~markovscore.fit_spectral`, and ``ValueError`` for more blocks than half the
    points.
    """
    sample = read_sample(x, as_diffusion(diffusion), weights, False, nan, wrap)
    n_blocks = check_integer(n_blocks, "n_blocks", low=2)
    if 2 * n_blocks > len(sample.x):
        raise ValueError(
            f"n_blocks: expected blocks of two points or more, found {n_blocks} blocks of "
            f"{len(sample.x)} points: pass fewer blocks, or more points"
        )
    check_generator(generator)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    process = as_diffusion(canonical(diffusion))
    plan = make_plan(sample, process, n_functions, times, shrinkage, selection, generator)
    order = torch.randperm(len(sample.x), generator=generator, device=generator.device)
    block = (order % n_blocks).to(sample.x.device)
    parts = [sample, *(sample.part(block != j) for j in range(n_blocks))]
    score, *others = (score_of(part, diffusion, plan) for part in parts)
    return Jackknife(score, tuple(others))
