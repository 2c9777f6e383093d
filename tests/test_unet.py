"""The U-Net: sizes, independence of rows, derivatives, initialisation, training and resuming."""

import math

import pytest
import torch
from odd_inputs import refused
from runs import broken_off
from statistical import F64, equal, rng
from torch.nn.functional import conv2d, group_norm, interpolate, silu

from markovscore import DenoisingSM, ImplicitSM, OrnsteinUhlenbeck, ScoreUNet, train
from markovscore.core import pull_back, value_and_divergence


def images(n, shape, seed=1, dtype=torch.float32):
    return torch.randn(n, math.prod(shape), generator=rng(seed), dtype=dtype)


def trained(net, seed=2):
    """Weights of the size they have after training: no layer is zero, so differences show."""
    g = rng(seed)
    with torch.no_grad():
        for p in net.parameters():
            fan_in = p[0].numel() if p.ndim > 1 else 25
            p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype) / math.sqrt(fan_in))
    return net


def small(**settings):
    return ScoreUNet(**({"shape": (2, 4, 4), "channels": 8, "attention": (4,)} | settings))


# Against the definition


def reference(net, x, t):
    """A brute-force twin of a two-level, one-block network with attention at the top level."""
    w = dict(net.named_parameters())

    def norm(name, h):
        c = h.shape[1]
        return group_norm(h, math.gcd(c // 4, 32), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def conv(name, h, stride=1):
        weight = w[f"{name}.weight"]
        return conv2d(h, weight, w[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def layer(name, v):
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    phase = torch.log(t + 1e-6)[:, None] * net.frequencies
    e = silu(layer("time.0", torch.cat([phase.sin(), phase.cos()], 1)))
    e = layer("shifts", silu(layer("time.2", e)))
    used = 0

    def block(name, h):
        nonlocal used
        y = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", h)))
        y = y + e[:, used : used + y.shape[1], None, None]
        used += y.shape[1]
        y = conv(f"{name}.conv2", silu(norm(f"{name}.norm2", y)))
        return y + (conv(f"{name}.skip", h) if f"{name}.skip.weight" in w else h)

    def attend(name, h):
        pixels = norm(f"{name}.norm", h).flatten(2).transpose(1, 2)
        q, k, v = layer(f"{name}.qkv", pixels).split(h.shape[1], dim=2)
        mixed = []
        for b in range(len(h)):
            scores = torch.exp(q[b] @ k[b].T / math.sqrt(h.shape[1]))
            mixed.append(scores / scores.sum(1, keepdim=True) @ v[b])
        return h + layer(f"{name}.out", torch.stack(mixed)).transpose(1, 2).reshape(h.shape)

    a = conv("first", x.reshape(-1, *net.shape))
    b = attend("down.0.attention.0", block("down.0.blocks.0", a))
    c = conv("down.0.resample", b, stride=2)
    d = block("down.1.blocks.0", c)
    h = block("middle.after", attend("middle.attention", block("middle.before", d)))
    h = block("up.0.blocks.1", torch.cat([block("up.0.blocks.0", torch.cat([h, d], 1)), c], 1))
    h = conv("up.0.resample", interpolate(h, scale_factor=2))
    h = attend("up.1.attention.0", block("up.1.blocks.0", torch.cat([h, b], 1)))
    h = attend("up.1.attention.1", block("up.1.blocks.1", torch.cat([h, a], 1)))
    return conv("out", silu(norm("norm", h))).flatten(1)


def test_is_the_network_of_its_definition():
    net, x = trained(small().double()), images(3, (2, 4, 4), dtype=F64)
    t = torch.tensor([0.01, 0.3, 2.0], dtype=F64)
    torch.testing.assert_close(net(x, t), reference(net, x, t))
    assert net(x, t).std() > 0.1


def test_paper_size_has_the_parameters_of_the_paper():
    """35,746,307 of Ho et al., whose time features are 128 in place of 32 numbers."""
    net = ScoreUNet((3, 32, 32), 128, (1, 2, 2, 2), blocks=2, attention=(16,))
    assert sum(p.numel() for p in net.parameters()) == 35_746_307 - (128 - 32) * 512


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((1, 8, 8), {}),
        ((3, 8, 16), {"multipliers": (1, 2, 2), "attention": (4, 2)}),
        ((3, 32, 32), {"multipliers": (1, 1, 2), "attention": (8,), "blocks": 2}),
        ((1, 4, 4), {"multipliers": (1,)}),
    ],
)
def test_shapes_rows_and_times(shape, settings):
    net = trained(ScoreUNet(shape, channels=8, **settings))
    x = images(3, shape)
    t = torch.tensor([0.02, 0.4, 1.0])
    y = net(x, t)
    assert y.shape == x.shape and y.dtype == torch.float32
    square = net(x.reshape(3, *shape), t)
    torch.testing.assert_close(square.reshape(3, -1), y)
    rows = torch.cat([net(x[i : i + 1], float(t[i])) for i in range(3)])
    torch.testing.assert_close(y, rows, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x, 0.4), net(x, torch.full((3,), 0.4)), rtol=1e-4, atol=1e-5)


def test_every_pixel_sees_every_pixel_and_the_time():
    """Without attention at the top too: the middle's makes the field of view the whole image."""
    net = trained(ScoreUNet((1, 8, 8), channels=8)).double().requires_grad_(False)
    x = images(1, (1, 8, 8), dtype=F64)
    moved = x.clone()
    moved[0, 0] += 1
    assert float((net(moved, 0.3) - net(x, 0.3)).abs().min()) > 1e-8
    assert float((net(x, 0.3) - net(x, 0.6)).abs().mean()) > 1e-2


def test_std_divides_the_output():
    std = OrnsteinUhlenbeck(32).std
    x, t = images(4, (2, 4, 4)), torch.tensor([0.01, 0.1, 1.0, 4.0])
    torch.testing.assert_close(small(std=std)(x, t), small()(x, t) / std(t)[:, None])
    torch.testing.assert_close(small(std=std)(x, 0.1), small()(x, 0.1) / std(t[1:2]))


# Derivatives


def test_first_and_second_derivatives():
    """Jacobian products against differences; the gradient of a vjp against differences of it."""
    net, t = trained(small().double()), torch.tensor([0.1, 1.0], dtype=F64)
    x, v, u = (images(2, (2, 4, 4), seed, F64) for seed in (1, 5, 6))

    def pulled(x):
        return pull_back(net, x, t)[1](v)

    h = 1e-5
    slope = (net(x + h * u, t) - net(x - h * u, t)) / (2 * h)
    torch.testing.assert_close((pulled(x) * u).sum(), (slope * v).sum(), rtol=1e-7, atol=0)
    weight = net.middle.attention.qkv.weight
    for parameter in (weight, net.first.weight, net.up[0].blocks[0].norm1.weight):
        found = torch.autograd.grad((pulled(x) * u).sum(), parameter)[0]
        direction = torch.randn(parameter.shape, generator=rng(7), dtype=F64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * h * direction
                values.append(float((pulled(x) * u).sum()))
                parameter -= sign * h * direction
        expected = (values[0] - values[1]) / (2 * h)
        assert float((found * direction).sum()) == pytest.approx(expected, rel=1e-5)


def test_exact_divergence_of_images():
    net = trained(small().double())
    x = images(2, (2, 4, 4), dtype=F64)
    _, divergence = value_and_divergence(net, x, 0.2)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, 0.2), x)
    for b in range(2):
        torch.testing.assert_close(divergence[b], jacobian[b, :, b].trace())


def test_attention_is_the_same_with_and_without_second_derivatives():
    net, x = trained(small()), images(4, (2, 4, 4))
    tracked = x.clone().requires_grad_()
    torch.testing.assert_close(net(tracked, 0.3), net(x, 0.3), rtol=1e-4, atol=1e-5)


# Initialisation


def test_starts_near_zero_with_healthy_layers():
    net = ScoreUNet((1, 8, 8), channels=32)
    x = images(64, (1, 8, 8))
    assert 1e-4 < float(net(x, 0.3).std()) < 0.03
    inner = net.first(x.reshape(-1, 1, 8, 8))
    assert 0.8 < float(inner.std()) < 1.2
    block = net.down[0].blocks[0]
    assert 0.3 < float(block.conv1(silu(block.norm1(inner))).std()) < 1.0
    assert float(block.conv2.weight.abs().max()) == 0


def test_initialisation_is_reproducible_and_local():
    before = torch.get_rng_state()
    one, two, other = small(), small(), small(generator=rng(1))
    assert torch.equal(before, torch.get_rng_state())
    assert equal(one.parameters(), two.parameters())
    assert not torch.equal(one.first.weight, other.first.weight)
    assert all(p.is_contiguous() and p.isfinite().all() for p in one.parameters())


# Training


def prototypes(n, seed=3):
    """Two images and a little noise: what there is to learn is the pattern."""
    g = rng(seed)
    patterns = torch.randn(2, 32, generator=rng(11))
    which = torch.randint(2, (n,), generator=g)
    return patterns[which] + 0.1 * torch.randn(n, 32, generator=g)


OU = OrnsteinUhlenbeck(32, horizon=2.0)


@torch.no_grad()
def loss(score, truth, data):
    return float(truth.losses(score, data, rng(4)).mean())


def test_denoising_training_learns():
    objective = DenoisingSM(OU, t_min=0.05, weighting="variance")
    net, data = small(std=OU.std), prototypes(400)
    start = loss(net, objective, data)
    run = train(net, objective, data, 150, batch_size=64, lr=3e-3, ema=0.9, progress=False)
    assert loss(run.score, objective, data) < 0.6 * start


@pytest.mark.parametrize(("trace", "steps", "share"), [("hutchinson", 60, 0.9), ("exact", 8, 1.0)])
def test_implicit_training_learns(trace, steps, share):
    """Gradients of a trace reach every parameter, through the attention too, and lower the loss."""
    objective, truth = ImplicitSM(OU, trace, t_min=0.3), DenoisingSM(OU, t_min=0.3)
    net, data = small(std=OU.std), prototypes(200)
    start = loss(net, truth, data)
    train(net, objective, data, steps, batch_size=32, lr=3e-3, ema=0.0, progress=False)
    assert loss(net, truth, data) < share * start
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert float(net.middle.attention.qkv.weight.grad.abs().max()) > 0


def test_resumed_training_equals_an_uninterrupted_one(tmp_path):
    data, settings = prototypes(50), {"batch_size": 8, "progress": False, "checkpoint_every": 3}

    def make():
        return small(std=OU.std), DenoisingSM(OU)

    whole = train(*make(), data, 6, **settings).score
    again = broken_off(make, data, 6, 4, tmp_path / "run", **settings).score
    assert equal(whole.state_dict().values(), again.state_dict().values())


def test_bf16_is_without_effect_on_a_cpu():
    x = images(2, (2, 4, 4))
    assert torch.equal(small(bf16=True)(x, 0.2), small()(x, 0.2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu():
    net, x = trained(small()), images(4, (2, 4, 4))
    expected, moved = net(x, 0.3), x.cuda()
    found = net.cuda()(moved, 0.3)
    torch.testing.assert_close(found.cpu(), expected, rtol=2e-2, atol=2e-2)
    net.bf16 = True
    low = net(moved, 0.3)
    assert low.dtype == torch.float32
    assert 0 < float((low - found).abs().mean()) < 0.05 * float(found.abs().mean())
    low.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (8, 8)}, r"shape: expected \(C, H, W\)"),
        ({"shape": (1, 8, 0)}, "shape: expected an integer >= 1"),
        ({"shape": (1, 9, 8)}, "divisible by 2, found 9 x 8"),
        ({"shape": (1, 8, 8), "multipliers": (1, 2, 2, 2, 2)}, "divisible by 16.*fewer multipl"),
        ({"channels": 6}, "channels: expected a multiple of 4, found 6"),
        ({"multipliers": ()}, "multipliers: expected integers >= 1"),
        ({"multipliers": (1, 0)}, "multipliers: expected an integer >= 1"),
        ({"attention": (3,)}, r"attention: expected resolutions among \[4, 2\], found 3"),
    ],
)
def test_bad_sizes(settings, message):
    refused(message, small, **settings)


def test_bad_images():
    net = small()
    refused(r"expected shape \(B, 32\) or \(B, 2, 4, 4\), found", net, torch.zeros(3, 31), 0.1)
    words = r"found \(3, 2, 8, 8\): build the network with shape"
    refused(words, net, torch.zeros(3, 2, 8, 8), 0.1)
    refused("x: expected shape", net, torch.zeros(32), 0.1)
    refused(r"float64.*net.to", net, torch.zeros(3, 32, dtype=F64), 0.1, error=TypeError)
    refused("uint8", net, torch.zeros(3, 32, dtype=torch.uint8), 0.1, error=TypeError)
    refused("t: expected", net, torch.zeros(3, 32), torch.ones(2))
