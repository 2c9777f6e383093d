"""The path buffer: law of the rows handed out, how often it simulates, what a checkpoint keeps."""

import pytest
import torch
from statistical import F64, agrees, equal, rng

from markovscore import PathBuffer

B = 64


class Source:
    """Numbered rows: standard normals, the simulation's number, and where each row started."""

    def __init__(self, seed=0):
        self.count, self.generator = 0, rng(seed)

    def __call__(self, x0):
        self.count += 1
        z = torch.randn(len(x0), 1, generator=self.generator, dtype=F64)
        return z, torch.full((len(x0),), self.count), x0[:, 0]


def run(buffer, calls, source, seed=1):
    x0, picker = torch.arange(B, dtype=F64)[:, None], rng(seed)
    return [buffer.draw(source, x0, picker) for _ in range(calls)]


@pytest.mark.parametrize(("reuse", "ahead"), [(1, 1), (1, 4), (4, 1), (3, 5)])
def test_simulations_and_uses_of_a_row_are_as_many_as_documented(reuse, ahead):
    source = Source()
    run(PathBuffer(reuse, ahead), 7 * reuse * ahead, source)
    assert source.count == 7
    run(PathBuffer(reuse, ahead), 1, source)
    assert source.count == 8
    drawn = run(PathBuffer(reuse, ahead), 2 * reuse * ahead, Source())
    z, block, start = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    values, uses = z.unique(return_counts=True)
    assert len(values) == 2 * ahead * B
    assert bool((uses == reuse).all())
    assert block.tolist() == [1] * (reuse * ahead * B) + [2] * (reuse * ahead * B)
    # Each order is a permutation: no row is repeated before all have been seen.
    assert len(z[: ahead * B].unique()) == ahead * B
    assert bool((start.unique(return_counts=True)[1] == 2 * ahead * reuse).all())


def test_rows_are_shuffled():
    start = run(PathBuffer(1, 8), 1, Source())[0][2]
    assert len(start.unique()) < B  # in order, a first batch would have one row of each start


@pytest.mark.parametrize("call", [0, 5, 11])
def test_reused_rows_have_the_law_of_fresh_ones(call):
    """Moments of one call's rows over independent buffers: N(0, 1), whatever the call."""
    rounds = 400
    first, second = torch.empty(2, rounds, dtype=F64)
    for i in range(rounds):
        z = run(PathBuffer(4, 2), call + 1, Source(i), seed=10_000 + i)[-1][0]
        first[i], second[i] = z.mean(), z.square().mean()
    assert agrees(first) and agrees(second, 1.0)


def test_same_seeds_same_rows_and_another_seed_others():
    first, again = (run(PathBuffer(4, 2), 9, Source(), seed=3)[-1][0] for _ in range(2))
    other = run(PathBuffer(4, 2), 9, Source(), seed=4)[-1][0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("calls", [4, 6])  # in the middle of a filling, and at its end
def test_restored_buffer_continues_as_if_nothing_had_happened(calls):
    x0 = torch.zeros(B, 1, dtype=F64)
    whole, other, picker, source = PathBuffer(3, 2), PathBuffer(3, 2), rng(1), Source()
    for _ in range(calls):
        whole.draw(source, x0, picker)
    other.restore(whole.state())
    state, noise = picker.get_state(), source.generator.get_state()
    expected = [whole.draw(source, x0, picker)[0] for _ in range(4)]
    picker.set_state(state)
    source.generator.set_state(noise)
    assert equal(expected, [other.draw(source, x0, picker)[0] for _ in range(4)])
    other.restore({})
    assert {name: field.numel() for name, field in other.state().items()} == {"order": 0, "left": 1}
    assert other.state()["left"] == 0


def test_rows_of_another_kind_are_forgotten():
    buffer, source = PathBuffer(4, 2), Source()
    run(buffer, 6, source)
    wide = buffer.draw(lambda x0: (x0,), torch.zeros(5, 2), rng())[0]
    assert wide.shape == (5, 2)
    assert wide.dtype == torch.float32


def test_batches_of_changing_size():
    buffer, source, picker = PathBuffer(2, 2), Source(), rng()
    sizes = [8, 5, 8, 3, 100, 3]
    drawn = [buffer.draw(source, torch.zeros(n, 1, dtype=F64), picker) for n in sizes]
    assert [len(rows[0]) for rows in drawn] == sizes
    assert torch.cat([rows[0] for rows in drawn]).unique(return_counts=True)[1].max() <= 2
