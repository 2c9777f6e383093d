"""Path-shift targets: exact chain scores, autograd, Fokker-Planck, and Stein identities."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from odd_inputs import refused
from problems import DENSE, Plain
from statistical import F64, agrees, points, rng, slope

import markovscore as ms

MIXTURE = ms.GaussianMixture(torch.tensor([[1.5, 1.0], [-1.5, 0.5], [0.0, -1.5]]), 0.7)
LANGEVIN = ms.Langevin(MIXTURE, beta=(0.5, 3.0))
SWIMMER = ms.ActiveSwimmer()
WIDE = torch.tensor([[1.0, 0.2, 0.1], [0.3, 0.5, -0.4]], dtype=F64)
# A user's process: coupled nonlinear drift, a full noise matrix that changes in time.
OWN = Plain(
    lambda y, t: torch.sin(2 * y.flip(1)) - y * (1 + 0.5 * t),
    lambda t: (1 + 0.3 * t)[..., None] * WIDE.to(t),
)


WEIGHTS = {
    "linear": None,
    "quadratic": lambda r: r**2,
    "diagonal": lambda r: torch.stack([r, torch.sin(0.5 * math.pi * r)], 1),
    "matrix": lambda r: (
        r[:, None, None] * torch.eye(2)
        + (r * (1 - r))[:, None, None] * torch.tensor([[0.0, 1.0], [-0.5, 0.3]])
    ),
}


def chain_moments(y_s, h, steps):
    """Mean ``(B, 2)``, the covariances ``P_i`` and the mean map of the Euler chain of DENSE."""
    A = torch.eye(2, dtype=F64) + h * DENSE.F
    P = [torch.zeros(2, 2, dtype=F64)]
    for _ in range(steps):
        P.append(A @ P[-1] @ A.T + h * DENSE.G @ DENSE.G.T)
    return y_s @ torch.linalg.matrix_power(A, steps).T, P, A


def test_the_regression_weight_of_a_linear_chain_gives_its_score_path_by_path():
    y_s, steps, t = points(50, 2), 12, 0.8
    mean, P, A = chain_moments(y_s, t / steps, steps)
    maps = [torch.linalg.matrix_power(A, steps - i).T for i in range(steps + 1)]
    table = torch.stack([P[i] @ maps[i] @ torch.linalg.inv(P[-1]) for i in range(steps + 1)])
    y, target = ms.path_shift_target(
        DENSE, y_s, 0.0, t, steps=steps, generator=rng(), weight=lambda r: table
    )
    score = -(y - mean) @ torch.linalg.inv(P[-1])
    torch.testing.assert_close(target, score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_every_weight_has_the_chain_score_as_its_mean(weight):
    """Regress the target on ``y``: slope and intercept of the exact Gaussian score."""
    n, steps, t = 40_000, 8, 0.8
    y_s = torch.tensor([[0.5, -1.0]], dtype=F64).expand(n, -1)
    mean, P, _ = chain_moments(y_s, t / steps, steps)
    y, target = ms.path_shift_target(
        DENSE, y_s, 0.0, t, steps=steps, generator=rng(), weight=weight
    )
    residual = target + (y - mean) @ torch.linalg.inv(P[-1])
    for psi in (1.0, y[:, :1], y[:, 1:], y[:, :1] * y[:, 1:], y.square().sum(1, keepdim=True)):
        assert agrees(psi * residual)
    assert residual.std() > 0.1  # so the test is not about an exact target


def test_linearised_weight_approaches_the_exact_transition_score():
    """Path by path, at the Euler scheme's strong order one; so it is local-DSM for frozen J."""
    y_s, t, errors = points(400, 2), 0.8, []
    counts = np.array([10, 20, 40, 80])
    weight = ms.linearised_weight(DENSE, y_s, 0.0, t)
    for steps in counts.tolist():
        y, target = ms.path_shift_target(
            DENSE, y_s, 0.0, t, steps=steps, generator=rng(), weight=weight
        )
        errors.append(float((target - DENSE.transition_score(y, y_s, t)).square().mean().sqrt()))
    assert slope(1 / counts, errors) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "process", [DENSE, ms.Langevin(ms.Logistic(2, 0.7))], ids=["linear", "logistic"]
)
def test_linearised_weight_lowers_the_variance(process):
    y_s, s, t = points(4_000, 2), 0.0, process.horizon
    spread = []
    for weight in (None, ms.linearised_weight(process, y_s, s, t)):
        target = ms.path_shift_target(process, y_s, s, t, generator=rng(), weight=weight)[1]
        spread.append(float(target.square().sum(1).mean()))
    assert spread[1] < 0.97 * spread[0]


def test_adaptive_weights_lower_the_variance_of_a_long_window():
    """Excess over the exact score, which no target can go below."""
    process, y_s = DRIFTS["double well"], 0.7 * points(20_000, 1)
    x, score = chain_score(process, 0.7, 1.0, 50)
    excess = []
    for weight in (None, "adaptive"):
        y, target = ms.path_shift_target(
            process, y_s, 0.0, 1.0, steps=50, generator=rng(), weight=weight
        )
        excess.append(float((target - torch.from_numpy(np.interp(y, x, score))).square().mean()))
    assert excess[1] < 0.5 * excess[0]


def test_adaptive_weights_are_the_same_by_both_routes_and_exact_for_a_linear_chain():
    class Full(ms.OrnsteinUhlenbeck):
        def drift_jacobian(self, y, t):
            return -torch.eye(2, dtype=y.dtype).expand(len(y), 2, 2)

    y_s = points(50, 2)
    for t in (0.9, torch.linspace(0.1, 2.0, 50, dtype=F64)):
        pair = [
            ms.path_shift_target(p, y_s, 0.0, t, steps=9, generator=rng(), weight="adaptive")[1]
            for p in (ms.OrnsteinUhlenbeck(2), Full(2))
        ]
        torch.testing.assert_close(*pair)
    errors, counts = [], np.array([10, 20, 40, 80])
    for steps in counts.tolist():
        y, target = ms.path_shift_target(
            DENSE, y_s, 0.0, 0.8, steps=steps, generator=rng(), weight="adaptive"
        )
        score = DENSE.transition_score(y, y_s, 0.8)
        errors.append(float((target - score).square().mean().sqrt()))
    assert slope(1 / counts, errors) > 0.85


def test_the_swimmers_shift_moves_the_end_by_one():
    """Autograd through the chain: shifted noise moves ``(x, v)`` by exactly the unit vectors."""
    steps, h = 9, 0.07
    noise = points(steps, 1)

    def end(noise, keep=None):
        y = torch.tensor([[1.3, -0.4]], dtype=F64)
        keep = [] if keep is None else keep
        keep.append(y)
        for z in noise:
            kick = SWIMMER.dispersion(0.0) @ z
            y = y + h * SWIMMER.drift(y, 0.0) + math.sqrt(h) * kick
            keep.append(y)
        return y[0]

    states = []
    end(noise, states)
    step = torch.full((steps, 1), h, dtype=F64)
    basis = torch.eye(steps, dtype=F64)
    displacement = -torch.stack(
        [SWIMMER.shift_target(torch.stack(states), z[:, None, None], step)[0] for z in basis]
    )
    slope = torch.autograd.functional.jacobian(end, noise)[:, :, 0]
    torch.testing.assert_close(slope @ displacement, torch.eye(2, dtype=F64))


TESTS = {
    "y": (lambda y: y, lambda y: torch.ones_like(y)),
    "sin": (torch.sin, torch.cos),
    "cube": (lambda y: y**3, lambda y: 3 * y**2),
    "tanh": (lambda y: torch.tanh(2 * y), lambda y: 2 / torch.cosh(2 * y) ** 2),
}


@pytest.mark.parametrize(
    ("process", "s", "t", "steps"),
    [
        (LANGEVIN, 0.3, 0.35, 4),
        (LANGEVIN, 0.0, 0.8, 20),
        (ms.DoubleWell(2), 0.5, 1.5, 20),
        (OWN, 0.1, 0.7, 12),
        (SWIMMER, 0.5, 1.5, 12),
        (SWIMMER, 0.0, 3.0, 40),
        (ms.TorusBrownian(2), 0.1, 0.3, 5),
    ],
    ids=lambda v: type(v).__name__ if hasattr(v, "drift") else str(v),
)
@pytest.mark.parametrize("weight", [None, "adaptive"])
def test_stein_identities(process, s, t, steps, weight):
    """``E[psi(Y_i) target_j + delta_ij psi'(Y_i)] = 0``: exact for the chain, any law at ``s``."""
    if process is SWIMMER and weight:
        pytest.skip("its rule is its own")
    n = 40_000
    start = 0.8 * points(n, 2) + torch.tensor([0.5, 0.0], dtype=F64)
    y_s = ms.simulate(process, start, s, 8, rng(1)) if s else start
    y, target = ms.path_shift_target(
        process, y_s, s, t, steps=steps, generator=rng(2), weight=weight
    )
    tests = TESTS if not isinstance(process, ms.TorusBrownian) else {"sin": TESTS["sin"]}
    for psi, derivative in tests.values():
        for i in range(2):
            identity = psi(y[:, i : i + 1]) * target
            identity[:, i] += derivative(y[:, i])
            z = identity.mean(0) / identity.std(0) * math.sqrt(n)
            assert (z.abs() < 5).all()
        cross = psi(y.sum(1, keepdim=True)) * target + derivative(y.sum(1, keepdim=True))
        assert (cross.mean(0).abs() < 5 * cross.std(0) / math.sqrt(n)).all()


DRIFTS = {
    "double well": ms.DoubleWell(),
    "ripple": Plain(lambda y, t: 3 * torch.sin(3 * y) - y),  # steep both ways
    "mixture": ms.Langevin(ms.GaussianMixture(torch.tensor([[-1.2], [1.2]]), 0.6), beta=1.0),
}


def fokker_planck_score(process, start_std, t):
    """Score of ``rho_t`` from ``N(0, start_std^2)``: dense finite volumes, exponentiated."""
    x = np.linspace(-4.5, 4.5, 601)
    dx = x[1] - x[0]
    middle = torch.from_numpy(0.5 * (x[1:] + x[:-1]))[:, None]
    f = process.drift(middle, 0.0)[:, 0].numpy()
    # Scharfetter-Gummel fluxes for diffusion 1/2: positive, conservative, second order.
    B = lambda z: np.where(np.abs(z) < 1e-8, 1 - z / 2, z / np.expm1(np.where(z == 0, 1, z)))  # noqa: E731
    right, left = 0.5 / dx**2 * B(-2 * f * dx), 0.5 / dx**2 * B(2 * f * dx)
    L = np.diag(right, -1) + np.diag(left, 1)
    L -= np.diag(L.sum(0))
    density = scipy.linalg.expm(t * L) @ np.exp(-0.5 * (x / start_std) ** 2)
    assert density.min() > 0
    return x, np.gradient(np.log(density), x)


def chain_score(process, start_std, t, steps):
    """Score of the Euler chain's own law: its transition density, iterated on a fine grid."""
    x = np.linspace(-4.5, 4.5, 601)
    h = t / steps
    mean = x + h * process.drift(torch.from_numpy(x)[:, None], 0.0)[:, 0].numpy()
    kernel = np.exp(-0.5 * (x[:, None] - mean) ** 2 / h)
    kernel *= (x[1] - x[0]) / math.sqrt(2 * math.pi * h)
    # The trapezoid rule is accurate to rounding for Gaussians three grid cells wide, and more.
    density = np.exp(-0.5 * (x / start_std) ** 2)
    for _ in range(steps):
        before, density = density, kernel @ density
    gradient = -((x[:, None] - mean) / h * kernel) @ before
    return x, gradient / density


@pytest.mark.parametrize("process", DRIFTS.values(), ids=DRIFTS)
def test_the_chains_score_converges_to_the_process_at_order_one(process):
    """What bias the targets have is the scheme's; here without noise."""
    x, truth = fokker_planck_score(process, 0.7, 1.0)
    counts, inner = np.array([100, 200, 400]), np.abs(x) < 1.6
    scores = np.stack([chain_score(process, 0.7, 1.0, n)[1][inner] for n in counts])
    errors = np.abs(scores - truth[inner]).max(1)
    # Differences of neighbours are free of the Fokker-Planck grid's own error.
    gaps = np.abs(np.diff(scores, axis=0)).max(1)
    assert np.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.15)
    assert errors[-1] < 1.5 * gaps[-1]


@pytest.mark.parametrize("weight", [None, "adaptive"])
@pytest.mark.parametrize("window", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("process", DRIFTS.values(), ids=DRIFTS)
def test_no_conditional_bias_at_any_window(process, window, weight):
    """In 20 bins of ``y`` the mean target is the mean score of the chain, within 5 s.e."""
    n, t, steps = 40_000, 1.0, 40
    y_s, before = 0.7 * points(n, 1), round((1 - window) * steps)
    if before:
        y_s = ms.simulate(process, y_s, t - window, before, rng(1))
    y, target = ms.path_shift_target(
        process, y_s, t - window, t, steps=steps - before, generator=rng(2), weight=weight
    )
    x, score = chain_score(process, 0.7, t, steps)
    truth = torch.from_numpy(np.interp(y[:, 0].numpy(), x, score))
    gap = (target[:, 0] - truth)[y[:, 0].argsort()].reshape(20, -1)
    z = gap.mean(1) / gap.std(1) * math.sqrt(gap.shape[1])
    assert (z.abs() < 5).all()
    assert z.square().sum() < 50  # chi-squared of 20: mean 20, this is p = 2e-4


def test_local_targets_are_biased_there():
    """The failure that path-shift repairs: local-DSM at the longest window."""
    n, process = 40_000, DRIFTS["double well"]
    y, target = ms.local_target(process, 0.7 * points(n, 1), 0.0, 1.0, generator=rng())
    x, score = fokker_planck_score(process, 0.7, 1.0)
    truth = torch.from_numpy(np.interp(y[:, 0].clamp(-4.4, 4.4).numpy(), x, score))
    middle = (y[:, 0].abs() > 1) & (y[:, 0].abs() < 2)
    assert (target[:, 0] - truth)[middle].square().mean() > 0.5


def test_windows_per_row_dtype_and_seeds():
    y_s, t = points(6, 2), torch.linspace(0.3, 1.0, 6)
    s = t * torch.linspace(0.0, 0.9, 6)
    y, target = ms.path_shift_target(LANGEVIN, y_s, s, t, steps=5, generator=rng())
    end = ms.simulate(LANGEVIN, y_s, t, 5, rng(), s=s)
    torch.testing.assert_close(y, end)  # the same chain, the same noise
    for process in (LANGEVIN, SWIMMER):
        y, target = ms.path_shift_target(process, y_s.float(), 0.1, t, generator=rng())
        assert y.dtype == target.dtype == torch.float32
        assert not target.requires_grad


def test_the_linear_weight_has_a_name():
    pair = [
        ms.path_shift_target(LANGEVIN, points(6, 2), 0.1, 0.8, generator=rng(), weight=weight)
        for weight in (None, "linear")
    ]
    assert torch.equal(pair[0][1], pair[1][1])
    ms.path_shift_target(SWIMMER, points(6, 2), 0.1, 0.8, generator=rng(), weight="linear")


def test_bad_requests():
    silent, y = Plain(OWN.drift, lambda t: torch.tensor([[0.0], [1.0]])), points(3, 2)
    refused("no shift rule", ms.path_shift_target, silent, y, 0.0, 0.1)
    with pytest.raises(ValueError, match="expected none for ActiveSwimmer"):
        ms.path_shift_target(SWIMMER, y, 0.0, 0.1, weight=lambda r: r)
    refused("at least 2 for ActiveSwimmer", ms.path_shift_target, SWIMMER, y, 0.0, 0.1, steps=1)
    refused("steps: expected an integer >= 1", ms.path_shift_target, LANGEVIN, y, 0.0, 0.1, steps=0)
    refused(r"found s = 0\.4, t = 0\.2", ms.path_shift_target, LANGEVIN, y, 0.4, 0.2)
    with pytest.raises(ValueError, match="w = 0 at the start"):
        ms.path_shift_target(LANGEVIN, y, 0.0, 0.2, weight=lambda r: 1 - r)
    with pytest.raises(ValueError, match='"adaptive" or a callable'):
        ms.path_shift_target(LANGEVIN, y, 0.0, 0.2, weight="adaptve")
    with pytest.raises(ValueError, match="weight: expected shape"):
        ms.path_shift_target(LANGEVIN, y, 0.0, 0.2, weight=lambda r: r[1:])
    refused(
        "expected .*without walls, found",
        ms.path_shift_target,
        ms.BoxBrownian(2),
        y.sigmoid(),
        0.0,
        0.2,
    )
    refused("diverge", ms.path_shift_target, ms.DoubleWell(2), 30 + y, 0.0, 1.0, steps=10)
