"""Normals from counters: published words, Box and Muller in float64, the statistics of noise."""

import math

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import rng

from markovscore.kernels import box_muller, philox_normals, philox_words, seed_tensor, triton_source

# Random123, file kat_vectors, philox4x32 with ten rounds: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip
WORD = 2**32


def words(text):
    return [int(w, 16) for w in text.split()]


@pytest.fixture
def big_blocks(device, monkeypatch):
    """The interpreter pays by the program; the size of a block changes no number."""
    if device.type == "cpu":
        monkeypatch.setattr(triton_source("philox"), "BLOCK", 2**15)
    return device


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_published_vectors(counter, key, expected):
    k0, k1 = words(key)
    found = philox_words(seed_tensor(k0 + (k1 << 32)), [torch.tensor([c]) for c in words(counter)])
    assert [int(w) for w in found] == words(expected)


def test_the_kernels_words_are_tritons(device, monkeypatch):
    """``tl.philox`` has its own products; and the published vectors again, in the kernel."""
    ours = triton_source("philox").philox
    import triton
    import triton.language as tl

    @triton.jit
    def both(seed, counters, out, N: tl.constexpr):
        i = tl.arange(0, N)
        c0, c1 = tl.load(counters + i), tl.load(counters + N + i)
        c2, c3 = tl.load(counters + 2 * N + i), tl.load(counters + 3 * N + i)
        a = ours(tl.load(seed), c0, c1, c2, c3)
        b = tl.philox(tl.load(seed), c0, c1, c2, c3)
        for j in tl.static_range(4):
            tl.store(out + j * N + i, a[j].to(tl.int64))
            tl.store(out + (4 + j) * N + i, b[j].to(tl.int64))

    monkeypatch.setitem(globals(), "ours", ours)  # the interpreter looks there
    for counter, key, expected in KNOWN:
        k0, k1 = words(key)
        g = rng(1)
        counters = torch.randint(WORD, (4, 16), generator=g)
        counters[:, 0] = torch.tensor(words(counter))
        low = torch.where(counters < 2**31, counters, counters - WORD).int().to(device)
        out = torch.zeros(2, 4, 16, dtype=torch.int64, device=device)
        both[(1,)](seed_tensor(k0 + (k1 << 32), device), low, out, 16)
        assert out[0].equal(out[1])
        assert out[0, :, 0].tolist() == words(expected)


def in_float64(a, b):
    """In float64, from its definition."""
    radius = np.sqrt(-2 * np.log((a + 0.5) / WORD))
    # The lower thirty bits are read as a signed number around pi / 4.
    angle = (0.5 * np.pi * (b % 2**30) / 2**30 + 0.25 * np.pi) % (0.5 * np.pi)
    signs = 1 - 2.0 * (b >> 31), 1 - 2.0 * ((b >> 30) & 1)
    return signs[0] * radius * np.cos(angle), signs[1] * radius * np.sin(angle)


def test_box_muller_in_float64():
    g = rng(2)
    a, b = torch.randint(WORD, (2, 20_000), generator=g)
    found = torch.stack(box_muller(a, b)).double().numpy()
    expected = np.stack(in_float64(a.numpy(), b.numpy()))
    # Rounding of u, of the polynomials and of their product, a few units in the last place; the
    # angle is rounded to 2^-24 of its range, and u to 2^-25 near 1, where the radius is small.
    radius = np.hypot(*expected)
    assert (np.abs(found - expected) < 1e-6 * radius + 2.0**-24 / radius).all()


def test_the_ends_of_the_words():
    ends = torch.tensor([0, 1, 2**30 - 1, 2**31 - 1, 2**31, WORD - 1])
    z = torch.stack(box_muller(ends[:, None], ends))
    assert torch.isfinite(z).all()
    radius = z.square().sum(0).sqrt()
    largest = math.sqrt(66 * math.log(2))
    torch.testing.assert_close(radius[0], torch.full((6,), largest), rtol=1e-6, atol=0)
    assert (radius[-1] == 0).all()  # u = 1
    assert (radius[:-1] > 0.5).all()


def test_kernel_and_twin_agree(device, in_torch):
    arguments = -(2**63) + 12345, 7, 33, 3
    kernel = philox_normals(*arguments, stream=WORD - 1, device=device)
    twin = in_torch(philox_normals, *arguments, stream=WORD - 1)
    if device.type == "cpu":
        assert kernel.equal(twin)  # the same float32 operations
    torch.testing.assert_close(kernel.cpu(), twin, rtol=2e-6, atol=2e-6)  # fused on a GPU


def test_a_normal_depends_on_its_counters_alone(big_blocks, monkeypatch):
    small = philox_normals(9, 6, 5, 3, device=big_blocks)
    large = philox_normals(9, 21, 40, 7, device=big_blocks)
    assert large[:6, :5, :3].equal(small)
    monkeypatch.setattr(triton_source("philox"), "BLOCK", 64)
    assert philox_normals(9, 6, 5, 3, device=big_blocks).equal(small)
    for seed, stream in ((10, 0), (9 + 2**32, 0), (9, 1)):
        changed = philox_normals(seed, 6, 5, 3, stream=stream, device=big_blocks)
        assert (changed != small).all()


def test_moments(big_blocks):
    z = philox_normals(77, 16, 2**13, 2, device=big_blocks).double().flatten()
    n = z.numel()
    for power, moment in enumerate((0, 1, 0, 3, 0, 15), start=1):
        double = math.prod(range(2 * power - 1, 0, -2))  # of z^(2 power)
        error = math.sqrt((double - moment**2) / n)
        assert abs(float(z.pow(power).mean()) - moment) < 6 * error, power


def test_the_law_in_equal_cells(big_blocks):
    """Chi squared on 256 cells of equal probability."""
    z = philox_normals(78, 8, 2**14, 2, device=big_blocks).double().flatten()
    cells = (256 * torch.special.ndtr(z)).long().clamp(max=255)
    counts, expected = torch.bincount(cells, minlength=256).double(), z.numel() / 256
    chi = float(((counts - expected).square() / expected).sum())
    assert abs(chi - 255) < 6 * math.sqrt(2 * 255)


def test_no_correlation_across_counters_and_seeds(big_blocks):
    """Of values and of squares: steps of one draw and of the next, rows, coordinates, keys."""
    draw = {"steps": 12, "rows": 2**13, "columns": 2, "device": big_blocks}
    z = philox_normals(5, **draw)
    pairs = {f"step + {k}": (z[:-k], z[k:]) for k in (1, 2, 3, 4)}
    pairs |= {f"row + {k}": (z[:, :-k], z[:, k:]) for k in (1, 32, 128)}
    pairs["coordinate"] = (z[:, :, 0], z[:, :, 1])
    for name, other in (("seed", {"seed": 6}), ("upper word", {"seed": 5 + 2**32})):
        pairs[name] = (z, philox_normals(**(draw | other)))
    pairs["stream"] = (z, philox_normals(5, **draw, stream=1))
    for name, (a, b) in pairs.items():
        a, b = a.double(), b.double()
        n = a.numel()
        assert abs(float((a * b).mean())) < 6 / math.sqrt(n), name
        squares = float(((a.square() - 1) * (b.square() - 1)).mean())
        assert abs(squares) < 6 * 2 / math.sqrt(n), name


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_no_numbers(device, in_torch, shape):
    assert philox_normals(1, *shape, device=device).shape == shape
    assert in_torch(philox_normals, 1, *shape).shape == shape


def test_seeds():
    assert seed_tensor(2**64 - 1).item() == -1
    assert seed_tensor(torch.tensor(5)).tolist() == [5]
    refused("expected an int or one int64, found float", seed_tensor, 0.5, error=TypeError)
    refused(r"found \(2,\) of torch.int64", seed_tensor, torch.tensor([1, 2]))


def test_too_many():
    words = "at most 2147483647 normals, found 2048 x 2048 x 512"
    refused(words, philox_normals, 0, 2**11, 2**11, 2**9)
