r"""A law of several coordinates, roughly, as a mixture of normal laws.

.. math:: q(x) = \sum_c w_c\, \mathcal N(x; m_c, \Sigma_c), \qquad
          r_c(x) = w_c\, \mathcal N(x; m_c, \Sigma_c) / q(x)

says where the law is, into which parts it falls, and from where averages under it are taken: what
follows is exact for any law, the mixture decides how fast it converges. Fitted to draws by
expectation maximisation (Dempster, Laird and Rubin 1977), the number of parts by Bayes'
information criterion (Schwarz 1978).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MOST = 6  # parts
_ROUNDS = 60
_NARROWEST = 1e-3  # scale of a part, relative to that of the law
_BROADER = 1.25  # the mixture that nodes are drawn from: weights are bounded in the tails


@dataclass(frozen=True, eq=False)
class Components:
    """``weights`` ``(C,)`` of sum one, ``means`` ``(C, d)``, principal ``axes`` ``(C, d, d)``, one
    a column, and ``scales`` ``(C, d)`` along them."""

    weights: Tensor
    means: Tensor
    axes: Tensor
    scales: Tensor

    @classmethod
    def of(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> Components:
        """From covariances ``(C, d, d)``."""
        variances, axes = torch.linalg.eigh(covariances)
        return cls(weights, means, axes, variances.sqrt())

    def like(self, x: Tensor) -> Components:
        """The same in the dtype and on the device of ``x``."""
        return Components(*(part.to(x) for part in vars(self).values()))

    def broader(self, factor: float) -> Components:
        """The same with wider parts."""
        return Components(self.weights, self.means, self.axes, factor * self.scales)

    def whitened(self, x: Tensor) -> Tensor:
        """``z_c`` of points ``(B, d)``, standard normal under part ``c``: ``(C, B, d)``."""
        return (x - self.means[:, None]) @ self.axes / self.scales[:, None]

    def distance(self, x: Tensor) -> Tensor:
        """Of points ``(B, d)`` from the nearest part, in its scales, ``(B,)``."""
        return self.like(x).whitened(x).norm(dim=2).amin(0)

    def log_terms(self, z: Tensor) -> Tensor:
        """``log w_c N(x; m_c, Sigma_c)`` from :meth:`whitened`, up to a constant: ``(C, B)``."""
        height = self.weights.log() - self.scales.log().sum(1)
        return height[:, None] - 0.5 * z.square().sum(2)

    def shares(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``r_c`` ``(C, B)``, its gradient ``(C, B, d)`` and its Laplacian ``(C, B)``."""
        r = self.log_terms(z).softmax(0)
        pulls = -(z / self.scales[:, None]) @ self.axes.mT  # the parts' scores
        mean = (r[..., None] * pulls).sum(0)
        curved = pulls.square().sum(2) - self.scales.square().reciprocal().sum(1)[:, None]
        bent = curved - (r * curved).sum(0) - 2 * ((pulls - mean) * mean).sum(2)
        return r, r[..., None] * (pulls - mean), r * bent

    def nodes(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Sobol's points, scrambled, under the mixture with broader parts, ``(n, d)``, and its log
        density there, up to a constant."""
        wide, dim = self.broader(_BROADER), self.means.shape[1]
        engine = torch.quasirandom.SobolEngine(dim + 1, scramble=True, seed=seed)
        u = engine.draw(count, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        part = torch.searchsorted(wide.weights.cumsum(0), u[:, 0].contiguous())
        part = part.clamp(max=len(wide.weights) - 1)
        z = math.sqrt(2) * torch.erfinv(2 * u[:, 1:] - 1) * wide.scales[part]
        x = wide.means[part] + torch.einsum("nij,nj->ni", wide.axes[part], z)
        return x, wide.log_terms(wide.whitened(x)).logsumexp(0)


def fit_components(x: Tensor, generator: torch.Generator) -> Components:
    """Of draws ``(n, d)``, with as many parts as the criterion asks for, six at most."""
    n, dim = x.shape
    best, found = math.inf, None
    for count in range(1, _MOST + 1):
        one, level = _expectation_maximisation(x, count, generator)
        free = count * (1 + dim + dim * (dim + 1) / 2) - 1
        criterion = free * math.log(n) - 2 * level
        if criterion >= best:
            break
        best, found = criterion, one
    assert found is not None
    return found


def _expectation_maximisation(
    x: Tensor, count: int, generator: torch.Generator
) -> tuple[Components, float]:
    """The mixture of so many parts and its log likelihood, from seeds far from each other."""
    whole = torch.cov(x.T)
    floor = _NARROWEST**2 * float(whole.trace()) / len(whole) * torch.eye(len(whole)).to(x)
    seeds = x[:1]
    for _ in range(1, count):
        away = torch.cdist(x, seeds).amin(1).square()
        seeds = torch.cat([seeds, x[torch.multinomial(away, 1, generator=generator)]])
    shares = torch.nn.functional.one_hot(torch.cdist(x, seeds).argmin(1), count).to(x)
    for _ in range(_ROUNDS):
        sizes = shares.sum(0) + 1e-9
        means = shares.T @ x / sizes[:, None]
        offsets = x - means[:, None]
        spread = torch.einsum("nc,cni,cnj->cij", shares, offsets, offsets)
        own = Components.of(sizes / sizes.sum(), means, spread / sizes[:, None, None] + floor)
        terms = own.log_terms(own.whitened(x))
        shares = terms.softmax(0).T
    level = terms.logsumexp(0).sum() - 0.5 * x.numel() * math.log(2 * math.pi)
    return own, float(level)
