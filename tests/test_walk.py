"""The Euler walk: what its steps show, what may be set, and what it asks for."""

import pytest
import torch
from problems import Plain, well
from statistical import F64, points, rng

import markovscore as ms
from markovscore.core import Walk, as_diffusion, euler_step, make_grid

WELL = as_diffusion(ms.DoubleWell(2, 2.0))


def ends(*values):
    return torch.tensor(values, dtype=F64)


@pytest.mark.parametrize(
    ("s", "t"), [(ends(0.1), ends(0.9)), (ends(0.0, 0.1, 0.2), ends(0.4, 0.9, 0.3))]
)
def test_a_walk_is_its_steps(s, t):
    y, seen = points(3), []
    walk = Walk(WELL, y, make_grid(WELL, s, t, 4), rng())
    for step in walk:
        assert torch.equal(step.y, walk.y)  # not taken yet
        seen.append(step)
    assert [step.i for step in seen] == [0, 1, 2, 3]
    for step in seen:
        h = ((t - s) / 4)[:, None]
        torch.testing.assert_close(torch.as_tensor(step.h, dtype=F64).expand(h.shape), h)
        y = y + h * well(step.y, step.time) + h.sqrt() * step.z
    torch.testing.assert_close(walk.y, y)
    assert torch.equal(walk.y, ms.simulate(ms.DoubleWell(2, 2.0), points(3), t, 4, rng(), s=s))
    again = Walk(WELL, points(3), make_grid(WELL, s, t, 4), rng())
    assert torch.equal(again.end(), walk.y)


def test_a_drift_that_was_computed_is_taken_and_not_asked_for_again():
    asked = []
    process = as_diffusion(Plain(lambda y, t: asked.append(1) or -y))
    walk = Walk(process, points(3), make_grid(process, ends(0.0), ends(1.0), 5), rng())
    for step in walk:
        step.drift = 100 * torch.ones_like(step.y)
    assert asked == []
    z = torch.stack([torch.randn(3, 2, generator=g, dtype=F64) for g in [rng()] for _ in range(5)])
    torch.testing.assert_close(walk.y, points(3) + 100 + 0.2**0.5 * z.sum(0))


def test_given_noise_and_a_projection():
    process = as_diffusion(Plain(lambda y, t: torch.zeros_like(y)))
    grid = make_grid(process, ends(0.0), ends(4.0), 4)
    kick = [torch.full((1, 1), v, dtype=F64) for v in (0.7, 0.7, -0.2, 0.5)]

    def noise(i, G, y):
        assert G.columns(1) == 1
        return kick[i]

    walk = Walk(
        process, torch.zeros(1, 1, dtype=F64), grid, noise, project=lambda y: y.clamp(max=1)
    )
    assert [float(step.y) for step in walk] == pytest.approx([0, 0.7, 1.0, 0.8])
    assert float(walk.y) == 1.0


def test_coefficients_that_do_not_depend_on_time_are_asked_for_once():
    times = []

    class Steady(ms.DoubleWell):
        def dispersion(self, t):
            times.append(t)
            return super().dispersion(t)

    class Changing(Steady):
        autonomous = False

    for process, count in ((Steady(2), 1), (Changing(2), 6)):
        times.clear()
        Walk(process, points(3), make_grid(process, ends(0.0), ends(1.0), 6), rng()).end()
        assert len(times) == count


def test_only_who_asks_for_it_is_watched():
    grid = make_grid(WELL, ends(0.0), ends(1.0), 10)
    with pytest.raises(ValueError, match=r"diverge at time .* row 1 \(started at \[9.0, 9.0\]"):
        Walk(WELL, ends(0.1, 9.0)[:, None].expand(2, 2), grid, rng()).end()
    free = Walk(WELL, ends(0.1, 9.0)[:, None].expand(2, 2), grid, rng(), watched=False).end()
    assert not torch.isfinite(free[1]).any() and torch.isfinite(free[0]).all()


@pytest.mark.parametrize("h", [0.3, 0.3 * torch.ones(4, 1, dtype=F64)], ids=["number", "rows"])
@pytest.mark.parametrize("G", [0.5, torch.tensor([[0.2], [0.9]]), ms.Diagonal([0.3, 0.8]),
                               torch.tensor([[1.0, 0.2, 0.1], [0.3, 0.5, -0.4]])])  # fmt: skip
def test_a_step_is_the_formula(G, h):
    process = as_diffusion(Plain(lambda y, t: -y, lambda t: G))
    y, before = points(4), points(4)
    step = next(iter(Walk(process, y, make_grid(process, ends(0.0), ends(1.0), 1), rng())))
    moved = euler_step(y, -y, step.G, step.z, h)
    expected = y - 0.3 * y + 0.3**0.5 * step.z @ step.G.matrix(2).expand(4, -1, -1)[0].T
    torch.testing.assert_close(moved, expected)
    assert torch.equal(y, before)  # in place of nothing
