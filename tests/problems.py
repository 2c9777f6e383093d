"""The zoo: processes, laws and exact answers that test files share, each with its source."""

import scipy.integrate
import scipy.linalg
import torch

import markovscore as ms


class Plain:
    """A user's own process: ``drift(y, t)``, ``dispersion(t)``, and no base class.

    Args:
        drift: ``(y, t) -> (B, d)``.
        dispersion: ``(t) -> G``. Default: one.
        more: further attributes (``dim``, ``horizon``, ``prior``, ...).
    """

    def __init__(self, drift, dispersion=lambda t: torch.tensor(1.0), **more):
        self.drift, self.dispersion = drift, dispersion
        vars(self).update(more)


def well(y, t):
    """``f = y - y^3``: the double well, ``pi ~ exp(y^2 - y^4 / 2)`` under unit noise (Kramers
    1940, Physica 7); what ``ms.DoubleWell`` must be."""
    return y - y**3


# A linear equation that turns, with noise along no axis; and the active swimmer with a linear
# force, whose noise enters one of two coordinates.
DENSE = ms.LinearSDE([[-1.0, 0.6], [-0.8, -0.3]], [[1.0, 0.2], [0.0, 0.7]])
LINEAR_SWIMMER = ms.LinearSDE([[-1.0, 1.0], [0.0, -0.1]], [[0.0], [0.45]])

# Priors of Langevin processes: two near components, and two far apart.
WELLS = ms.GaussianMixture([[1.2, 0.5], [-0.8, -0.6]], 0.7)
CORNERS = ms.GaussianMixture([[2.0, 2.0], [-2.0, 1.0]], 0.8)


def linear_covariance(F, G, t):
    """``int_0^t e^{Fu} G G^T e^{F^T u} du`` to 12 digits, by adaptive quadrature."""

    def integrand(u):
        factor = scipy.linalg.expm(F.numpy() * u) @ G.numpy()
        return factor @ factor.T

    return scipy.integrate.quad_vec(integrand, 0, t, epsabs=0, epsrel=1e-12, norm="max")[0]


def linear_moments(F, G, mean, variance, t):
    """Mean and covariance at ``t`` of ``dY = F Y dt + G dW`` from ``N(mean, variance I)``.

    ``e^{Ft} mean`` and ``variance e^{Ft} e^{F^T t} + int_0^t e^{Fu} G G^T e^{F^T u} du``, by the
    exponential of one block matrix (Van Loan 1978, IEEE Transactions on Automatic Control 23).
    """
    F, G, mean = (torch.as_tensor(v, dtype=torch.float64) for v in (F, G, mean))
    d = len(F)
    blocks = torch.cat([torch.cat([-F, G @ G.T], 1), torch.cat([torch.zeros_like(F), F.T], 1)])
    E = torch.linalg.matrix_exp(blocks * t)
    flow = E[d:, d:].T
    return flow @ mean, variance * flow @ flow.T + flow @ E[:d, d:]


def transition_mean(process, x0, t):
    """``E[Y_t | Y_0 = x0]`` of a Gaussian transition, where its affine score vanishes."""
    zero, axes = torch.zeros_like(x0), torch.eye(x0.shape[1]).to(x0)
    at_zero = process.transition_score(zero, x0, t)
    columns = [process.transition_score(zero + axis, x0, t) - at_zero for axis in axes]
    return torch.linalg.solve(torch.stack(columns, 2), -at_zero.unsqueeze(2)).squeeze(2)
