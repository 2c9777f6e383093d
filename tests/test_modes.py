"""What is kept (caches, laws, fits) does not carry the modes in which it was first made, and closed
forms do not take those of the caller: inference mode, default device and dtype, autocast."""

import re

import pytest
import torch
from face import CALLS
from odd_inputs import flat, refused
from runs import Stop, stop_at
from statistical import default_dtype, rng
from torch import nn

import markovscore as ms
from markovscore.core import full_precision, lasting
from markovscore.kernels import expm

MODES = {
    "inference": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
}


def points(n=40, d=1, seed=0, dtype=torch.float64, scale=1.0):
    x = torch.randn(n, d, generator=rng(seed), dtype=dtype, device="cpu")
    return scale * x.clamp(-2.5, 2.5)


def slopes(function, x):
    """The gradient of ``sum_b f(x_b)``, ``(B, d)``, by automatic differentiation."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


# Caches and constructors


BASES = {
    "hermite": lambda order: ms.Hermite(1, order),
    "fourier": lambda order: ms.Fourier(1, 2 * order),
    "cosine": lambda order: ms.Cosine(1, order, -3.0, 3.0),
}


def unused(mode):
    """A size that no other test takes: what is kept for it is made in this mode."""
    return 21 + list(MODES).index(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BASES)
def test_a_basis_first_used_in_a_mode_serves_derivatives(mode, name):
    order = unused(mode)
    x, count = points(), order * (1 + (name == "fourier"))
    coefficients = torch.linspace(1, 2, count).double()
    with MODES[mode]():
        basis = BASES[name](order)
        for method in (basis.gradient, basis.laplacian):
            method(x)
        basis.contract(basis.jet_tensors(coefficients).to(x), x)
    function = slopes(lambda x: basis(x) @ coefficients, x)
    torch.testing.assert_close(slopes(lambda x: basis.gradient(x)[:, :, 0] @ coefficients, x),
                               basis.laplacian(x) @ coefficients[:, None])  # fmt: skip
    jet = basis.contract(basis.jet_tensors(coefficients), x)
    torch.testing.assert_close(jet[0][:, None], function)
    fresh = BASES[name](order)
    torch.testing.assert_close(basis.gradient(x), fresh.gradient(x), rtol=0, atol=0)


LAWS = {
    "gaussian": lambda: ms.Gaussian(2, scale=[[1.0, 0.0], [0.5, 2.0]]),
    "mixture": lambda: ms.GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], [0.5, 0.8]),
    "product": lambda: ms.ProductMixture(2, [1.0, -1.0], [0.5, 0.8]),
    "logistic": lambda: ms.Logistic(2, 0.7),
    "trap": lambda: ms.TrappedParticles(1).law(0.3),
    "diffused": lambda: ms.DiffusedMixture(ms.OrnsteinUhlenbeck(2), [[1.0, 0.0], [-1, 0.5]], 0.4),
    "linear": lambda: ms.LinearSDE([[-1.0, 0.5], [0.0, -2.0]], [[1.0, 0.0], [0.3, 1.0]]).prior,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LAWS)
def test_a_law_made_in_a_mode_serves_derivatives(mode, name):
    x = points(d=2)
    with MODES[mode]():
        law = LAWS[name]()
        law.score(x), law.log_prob(x)
    torch.testing.assert_close(slopes(law.log_prob, x), law.score(x))
    torch.testing.assert_close(law.score(x), LAWS[name]().score(x), rtol=0, atol=0)


def test_parameters_that_are_inference_tensors_are_copied():
    with torch.inference_mode():
        scale = torch.tensor([0.5], dtype=torch.float64)
    law = ms.Gaussian(1, scale=scale)
    torch.testing.assert_close(slopes(law.log_prob, points()), -4 * points())


PROCESSES = {
    "linear": lambda: ms.LinearSDE([[-1.0, 0.5], [0.0, -2.0]], [[1.0, 0.0], [0.3, 1.0]]),
    "swimmer": ms.ActiveSwimmer,
    "langevin": lambda: ms.Langevin(ms.GaussianMixture([[2.0, 0.0], [-2.0, 0.0]], 0.8)),
    "clock": lambda: ms.Langevin(ms.Gaussian(2), lambda t: 1 + t),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_made_in_a_mode_serves_derivatives(mode, name):
    y, v, steps = points(d=2), points(d=2, seed=1), unused(mode)
    with MODES[mode]():
        process = PROCESSES[name]()
        process.drift(y, 0.3)
        if mode != "meta":  # where the arithmetic of a call is the caller's business
            ms.simulate(process, y, 0.5, steps, rng())
    fresh = PROCESSES[name]()
    expected = torch.func.vjp(lambda y: fresh.drift(y, 0.3), y)[1](v)[0]
    torch.testing.assert_close(
        slopes(lambda y: (process.drift(y, 0.3) * v).sum(1), y), expected, rtol=0, atol=0
    )
    ends = [ms.simulate(p, y, 0.5, steps, rng()) for p in (process, fresh)]
    assert torch.equal(*ends)


# These make something new: a window, a drift with a table, a network.
OPEN = r"clock_window|Euler|train|.*\(\)"


@pytest.mark.parametrize(
    "call", [c for c in CALLS if not re.match(OPEN, c.name)], ids=lambda call: call.name
)
def test_what_is_done_with_points_does_not_depend_on_the_default_device(call):
    """Points on one device, another by default: as here meta, whose numbers nobody can read."""
    expected = flat(call.run(**call.good()))
    with torch.device("meta"):
        found = call.run(**call.good())
    assert torch.equal(flat(found), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda y: ms.simulate(PROCESSES["clock"](), y, 0.5, 3, rng()),
        lambda y: ms.simulate(PROCESSES["clock"](), y, 0.3 * y[:, 0].abs(), 3, rng()),
        lambda y: ms.fit_additive(y, ms.OrnsteinUhlenbeck(2), 3, [0.1, 1.0]).at(0.5),
    ],
    ids=["clock by quadrature", "rows", "coefficients"],
)
def test_clocks_and_tables_do_not_depend_on_the_default_device(make):
    y = points(d=2)
    expected = make(y)
    with torch.device("meta"):
        assert torch.equal(make(y), expected)


def test_the_matrix_exponential_first_used_in_inference_mode_has_its_derivative():
    A = 0.3 * points(6, 3).reshape(1, 1, 3, 6)[0, 0, :, :3].reshape(1, 3, 3).double()
    with torch.inference_mode():
        expm(A)
    A.requires_grad_()
    found = torch.autograd.grad(expm(A).sum(), A)[0]
    expected = torch.autograd.grad(torch.linalg.matrix_exp(A).sum(), A)[0]
    torch.testing.assert_close(found, expected)


SCORES = {
    "torus": (lambda: ms.TorusBrownian(2), {"n_functions": 8}),
    "ou": (lambda: ms.OrnsteinUhlenbeck(2), {"n_functions": 9}),
    "additive": (lambda: ms.OrnsteinUhlenbeck(2), {"features": "additive", "order": 3}),
    "pca": (
        lambda: ms.VariancePreserving(2),
        {"features": "additive", "order": 2, "rotation": "pca"},
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SCORES)
def test_a_score_fitted_in_a_mode_is_the_same_and_has_derivatives(mode, name, tmp_path):
    make, arguments = SCORES[name]
    x = points(500, 2, scale=0.9)
    times = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    with MODES[mode]():
        score = ms.fit_spectral(x, make(), times=times, **arguments)
        if mode != "meta":
            score(x, 0.5)
            score.save(tmp_path / "score")
            again = type(score).load(tmp_path / "score")
    expected = ms.fit_spectral(x, make(), times=times, **arguments)
    assert torch.equal(score.coefficients, expected.coefficients)
    for one in (score, *([again] if mode != "meta" else [])):
        y = points(10, 2, seed=3)
        trace = sum(slopes(lambda x, i=i, s=one: s(x, 0.5)[:, i], y)[:, i] for i in range(2))
        torch.testing.assert_close(trace, expected.divergence(y, 0.5))


def asked(process, **settings):
    """The times at which a sampler asks a function that says nothing of times."""
    times, start = [], torch.zeros(2, process.dim, dtype=torch.float64)
    score = lambda x, t: times.append(float(t)) or -x  # noqa: E731
    vars(score).update(settings)
    ms.sample_ode(score, process, 2, x_T=start)
    return torch.tensor(times, dtype=torch.float64)


def levels(score):
    return torch.cat([score.times, torch.tensor([score.finest_time], dtype=torch.float64)])


DEFAULT_TIMES = {
    "product": lambda x: levels(ms.fit_spectral(x, ms.OrnsteinUhlenbeck(2, horizon=2.7), 9)),
    "torus": lambda x: levels(ms.fit_spectral(x, ms.TorusBrownian(2, horizon=0.7), 8)),
    "additive": lambda x: levels(ms.fit_additive(0.03 * x, ms.OrnsteinUhlenbeck(2, 2.7), 3)),
    "variance": lambda x: levels(ms.fit_additive(0.03 * x, ms.VariancePreserving(2), 3)),
    "sampler": lambda x: asked(ms.OrnsteinUhlenbeck(2, horizon=2.7)),
    "range": lambda x: asked(ms.OrnsteinUhlenbeck(2), time_range=(0.1, 2.7)),
    "refined": lambda x: asked(ms.VariancePreserving(2), times=[0.0, 0.1, 1.0], finest_time=1e-3),
    "linear": lambda x: asked(ms.Langevin(ms.Gaussian(2), (0.1, 7.0), horizon=0.7)),
    "clock": lambda x: asked(ms.Langevin(ms.Gaussian(2), lambda t: 1 + t, horizon=0.7)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", DEFAULT_TIMES)
def test_default_times_do_not_depend_on_the_default_dtype(name, dtype):
    x = points(200, 2, scale=0.9)
    expected = DEFAULT_TIMES[name](x)
    assert expected.dtype == torch.float64 and len(expected) > 20
    with default_dtype(dtype):
        assert torch.equal(DEFAULT_TIMES[name](x), expected)


def test_default_times_of_products_are_log_spaced():
    times = ms.fit_spectral(points(200), ms.OrnsteinUhlenbeck(1), 4).times
    assert float(times[0]) == pytest.approx(0.002, rel=1e-12)
    assert float(times[-1]) == pytest.approx(5, rel=1e-12)
    assert torch.allclose(times.log().diff(), times.log().diff()[0], rtol=1e-9)


# Autocast


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_exact_under_autocast(name):
    make, arguments = SCORES[name]
    x = points(500, 2, dtype=torch.float32, scale=0.9)
    score = ms.fit_spectral(x, make(), times=[0.1, 0.5, 1.0], **arguments)
    expected = score.score_and_divergence(x, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        found = score.score_and_divergence(x, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["linear", "swimmer"])
def test_dispersions_and_linear_drifts_are_exact_under_autocast(name):
    y, process, times = points(50, 2, dtype=torch.float32), PROCESSES[name](), [0.1, 0.2, 0.3]
    window = process, y, 0.0, 0.3
    calls = {
        "drift": lambda: process.drift(y, 0.1),
        "simulate": lambda: ms.simulate(process, y, 0.4, 5, rng()),
        "local": lambda: ms.local_transition(*window)[1],
        "shift": lambda: ms.path_shift_target(*window, steps=4, generator=rng())[1],
        "flow": lambda: ms.sample_sde(
            lambda x, t: -x, process, 50, times=times, x_T=y, generator=rng()
        ),
    }
    for what, call in calls.items():
        expected = call()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(call(), expected), what


def test_distances_are_exact_under_autocast():
    x, y = points(60, 3, dtype=torch.float32), points(50, 3, 1, torch.float32)
    for distance in (
        lambda: ms.metrics.mmd(x, y),
        lambda: ms.metrics.sliced_wasserstein(x, y, 20, rng()),
    ):
        expected = distance()
        with torch.autocast("cpu", torch.bfloat16):
            assert distance() == expected


def test_full_precision_costs_nothing_where_it_is_on_and_comes_back():
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        full_precision(lambda: seen.append(torch.is_autocast_enabled("cpu")))()
        assert torch.is_autocast_enabled("cpu")
    assert seen == [False]


def test_lasting_keeps_whether_gradients_are_recorded():
    for mode, expected in (
        (torch.no_grad, False), (torch.enable_grad, True), (torch.inference_mode, False),
    ):  # fmt: skip
        with mode():
            assert lasting(torch.is_grad_enabled)() is expected
            assert lasting(torch.is_inference_mode_enabled)() is False


# Training


def settings(**others):
    return {"batch_size": 16, "progress": False, "lr": 0.05} | others


def trained(data, net=None, objective=None, **others):
    net = ms.ScoreMLP(2, width=8, depth=1) if net is None else net
    objective = ms.DenoisingSM(ms.OrnsteinUhlenbeck(2)) if objective is None else objective
    result = ms.train(net, objective, data, 5, **settings(**others))
    return [p.detach().clone() for p in result.score.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_data_and_batches_with_a_graph_train_and_receive_no_gradient():
    class Weighted:
        def __init__(self, x):
            self.x, self.checksum = x, "x"

        def __len__(self):
            return len(self.x)

        def batch(self, rows, generator):
            return self.x[rows]

    x = points(64, 2, dtype=torch.float32)
    leaf = x.clone().requires_grad_()
    for data in (Weighted(leaf), leaf, leaf * 1.0):
        assert equal(trained(data), trained(x))
    assert leaf.grad is None


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_training_inside_an_evaluation_is_training(mode):
    x = points(64, 2, dtype=torch.float32)
    objective = ms.LocalDSM(ms.DoubleWell(2), steps=3)
    expected = trained(x, objective=objective)
    with getattr(torch, mode)():
        objective = ms.LocalDSM(ms.DoubleWell(2), steps=3)
        assert equal(trained(x, objective=objective), expected)
        assert equal(trained(points(64, 2, dtype=torch.float32), objective=objective), expected)


def test_a_frozen_network_is_refused_and_a_partly_frozen_one_trains(tmp_path):
    x, net = points(64, 2, dtype=torch.float32), ms.ScoreMLP(2, width=8, depth=1)
    refused(r"none among 6: .*requires_grad_\(True\)", trained, x, net.requires_grad_(False))
    refused("none among 0", trained, x, nn.Identity())
    refused(r"found function: the order is train\(net", trained, x, lambda x, t: x, error=TypeError)

    def halves():
        net = ms.ScoreMLP(2, width=8, depth=1)
        net.hidden.requires_grad_(False)
        return net

    kept = [p.clone() for p in halves().hidden.parameters()]
    path = tmp_path / "run"
    with pytest.raises(Stop):
        trained(x, halves(), checkpoint=path, checkpoint_every=2, callback=stop_at(3))
    net = halves()
    assert equal(trained(x, net, checkpoint=path, checkpoint_every=2), trained(x, halves()))
    assert equal(net.hidden.parameters(), kept)


def test_a_network_made_in_inference_mode():
    x = points(64, 2, dtype=torch.float32)
    with torch.inference_mode():
        own = ms.ScoreMLP(2, width=8, depth=1)
        foreign = nn.Linear(2, 2)
    assert equal(trained(x, own), trained(x))
    refused(r"made in torch\.inference_mode: build", trained, x, foreign)


def test_a_loss_without_a_graph_is_explained():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        @torch.no_grad()
        def forward(self, x, t):
            return self.weight * x

    with pytest.raises(
        ValueError,
        match=r"loss: expected one that autograd can follow .* remove torch\.no_grad",
    ):
        trained(points(64, 2, dtype=torch.float32), Blind())


def test_a_residual_on_a_rotated_score_trains_under_autocast():
    x, vp = points(300, 2, dtype=torch.float32), ms.VariancePreserving(2)
    base = ms.fit_spectral(x, vp, features="additive", order=3, rotation="pca")
    with torch.autocast("cpu", torch.bfloat16):
        net = ms.ResidualScore(base, ms.ScoreMLP(2, width=8, depth=1, std=vp.std))
        result = ms.train(net, ms.DenoisingSM(vp), x, 5, **settings())
        y = ms.sample_ode(result.score, vp, 8, steps=5, generator=rng())
    assert y.dtype == torch.float32 and torch.isfinite(y).all()
    assert torch.isfinite(result.losses).all()


def test_a_fit_does_not_hold_the_graph_of_its_data():
    leaf = points(200, 2).requires_grad_()
    ou = ms.OrnsteinUhlenbeck(2)
    for arguments in (
        {"n_functions": 5},
        {"features": "additive", "order": 3},
        {"features": "additive", "order": 3, "rotation": "pca"},
    ):
        score = ms.fit_spectral(leaf, ou, times=[0.3, 1.0], **arguments)
        expected = ms.fit_spectral(leaf.detach(), ou, times=[0.3, 1.0], **arguments)
        assert not score.coefficients.requires_grad
        assert torch.equal(score.coefficients, expected.coefficients)
    moments = ms.AdditiveMoments.empty(2, leaf)
    moments.update(leaf)
    assert not moments.mean().requires_grad
    assert ms.metrics.mmd(leaf, leaf * 2) == ms.metrics.mmd(leaf.detach(), 2 * leaf.detach())
