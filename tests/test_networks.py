"""The network: shapes, symmetry, scaling, initialisation, and differentiability by torch.func."""

import math

import pytest
import torch
from odd_inputs import refused
from statistical import F64, points, rng

from markovscore.diffusions import TorusBrownian
from markovscore.networks import ScoreMLP

F32 = torch.float32


def trained(net):
    """Give the small last layer the size it has after training, so that differences show."""
    with torch.no_grad():
        net.out.weight.mul_(100)
    return net


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_shape_and_dtype(d, dtype):
    net = ScoreMLP(d, width=32).to(dtype)
    x = points(7, d, dtype=dtype)
    for t in (0.1, torch.tensor(0.1), torch.full((7,), 0.1)):
        assert net(x, t).shape == (7, d)
        assert net(x, t).dtype == dtype


def test_depends_on_space_and_on_time_at_every_scale():
    net = trained(ScoreMLP(2, width=64).double())
    x = points(16)
    assert (net(x, 0.1) - net(x + 1, 0.1)).norm() > 0.1 * net(x, 0.1).norm()
    for t in (1e-5, 1e-3, 1e-1, 1.0):
        assert (net(x, t) - net(x, 3 * t)).norm() > 0.05 * net(x, t).norm()
        # and smoothly: a hundredth of the time changes little
        assert (net(x, t) - net(x, 1.01 * t)).norm() < 0.1 * net(x, t).norm()


def test_periodic_network_is_periodic_and_the_plain_one_is_not():
    x = points(16)
    shift = 2 * math.pi * torch.tensor([1.0, -2.0], dtype=F64)
    periodic = trained(ScoreMLP(2, periodic=True).double())
    plain = trained(ScoreMLP(2).double())
    torch.testing.assert_close(periodic(x + shift, 0.1), periodic(x, 0.1))
    assert (plain(x + shift, 0.1) - plain(x, 0.1)).abs().max() > 0.1
    # Not more symmetric than that: half a period and reflections are seen.
    for other in (x + shift / 2, -x):
        assert (periodic(other, 0.1) - periodic(x, 0.1)).abs().max() > 0.1


def test_std_divides_the_output():
    std = TorusBrownian(2).std
    x, t = points(16, dtype=F32), torch.linspace(0.001, 2.0, 16)
    raw, scaled = ScoreMLP(2), ScoreMLP(2, std=std)
    torch.testing.assert_close(scaled(x, t), raw(x, t) / std(t)[:, None])
    torch.testing.assert_close(scaled(x, 0.02), raw(x, 0.02) / 0.2)


def test_time_zero_is_finite_without_std():
    net = ScoreMLP(2)
    assert torch.isfinite(net(points(16, dtype=F32), 0.0)).all()


def test_starts_small_and_with_healthy_layers():
    net = ScoreMLP(2)
    x = points(2000, dtype=F32)
    assert net(x, 0.1).abs().mean() < 0.03
    h = x
    for layer in net.hidden:
        h = torch.nn.functional.silu(layer(h))
        assert 0.05 < h.std() < 1.0


def test_initialisation_is_reproducible_and_local():
    before = torch.get_rng_state()
    one, two = ScoreMLP(2), ScoreMLP(2)
    other = ScoreMLP(2, generator=rng(1))
    assert torch.equal(before, torch.get_rng_state())
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.out.weight, other.out.weight)


def test_exact_divergence_by_torch_func_and_by_autograd():
    net = trained(ScoreMLP(2, width=32, periodic=True, std=TorusBrownian(2).std).double())
    x, t = points(8), torch.linspace(0.01, 1, 8, dtype=F64)

    def one(x, t):
        return net(x[None], t[None])[0]

    jacobian = torch.func.vmap(torch.func.jacrev(one))(x, t)
    tracked = x.clone().requires_grad_()
    y = net(tracked, t)
    rows = [torch.autograd.grad(y[:, i].sum(), tracked, retain_graph=True)[0] for i in range(2)]
    torch.testing.assert_close(jacobian, torch.stack(rows, 1))
    h = 1e-5
    for i in range(2):
        step = h * torch.eye(2, dtype=F64)[i]
        numeric = (net(x + step, t) - net(x - step, t)) / (2 * h)
        torch.testing.assert_close(jacobian[:, :, i], numeric, rtol=1e-6, atol=1e-7)


def test_state_round_trip(tmp_path):
    net = trained(ScoreMLP(2, width=16))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    again = ScoreMLP(2, width=16, generator=rng(5))
    again.load_state_dict(torch.load(tmp_path / "net.pt"))
    assert torch.equal(net(points(16, dtype=F32), 0.1), again(points(16, dtype=F32), 0.1))


def test_autocast_keeps_the_dtype_of_the_points():
    net, x = trained(ScoreMLP(2, width=16)), points(4, dtype=F32)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x, 0.1)
    assert found.dtype == x.dtype
    torch.testing.assert_close(found, net(x, 0.1), rtol=0.1, atol=0.1)


def test_rejects_another_dtype():
    net = ScoreMLP(2, width=16)
    refused(r"float64.*net.to", net, points(16), 0.1, error=TypeError)
