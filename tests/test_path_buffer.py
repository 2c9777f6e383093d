"""The path buffer: law of the rows handed out, how often it simulates, what a checkpoint keeps."""

import math

import pytest
import torch

from markovscore import PathBuffer

B = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Source:
    """Numbered rows: the block's number, and standard normals."""

    def __init__(self, seed=0):
        self.count, self.generator = 0, generator(seed)

    def __call__(self):
        self.count += 1
        z = torch.randn(B, 1, generator=self.generator, dtype=torch.float64)
        return z, torch.full((B,), self.count)


def run(buffer, calls, source, seed=1):
    like, picker = torch.zeros(B, 1, dtype=torch.float64), generator(seed)
    return [buffer.draw(source, like, picker) for _ in range(calls)]


@pytest.mark.parametrize(("reuse", "blocks"), [(1, 4), (4, 4), (8, 3)])
def test_refresh_rate_is_the_documented_one(reuse, blocks):
    source, calls = Source(), blocks + 40 * reuse
    run(PathBuffer(reuse, blocks), calls, source)
    if reuse == 1:
        assert source.count == calls
    else:
        # One in each of the first calls, then one in `reuse`, at multiples of it.
        assert source.count == blocks + (calls - 1) // reuse - (blocks - 1) // reuse


def test_a_row_lives_and_is_used_as_long_as_documented():
    reuse, blocks, calls = 4, 3, 400
    drawn = run(PathBuffer(reuse, blocks), calls, Source())
    calls_of = {}
    for call, (_, block) in enumerate(drawn):
        for number in block.unique().tolist():
            calls_of.setdefault(number, []).append(call)
    block = torch.cat([rows[1] for rows in drawn])
    settled = range(10, 80)
    assert all(calls_of[k][-1] - calls_of[k][0] + 1 == reuse * blocks for k in settled)
    # A block's draws: binomial of B per call with share 1 / blocks, over its life.
    uses = torch.tensor([float((block == k).sum()) for k in settled]) / B
    spread = math.sqrt(reuse * (1 - 1 / blocks) / B / len(settled))
    assert abs(float(uses.mean()) - reuse) < 6 * spread + 1e-9


@pytest.mark.parametrize("call", [0, 5, 11])
def test_reused_rows_have_the_law_of_fresh_ones(call):
    """Moments of one call's rows over independent buffers: N(0, 1), whatever the call."""
    rounds = 400
    first, second = torch.empty(2, rounds, dtype=torch.float64)
    for i in range(rounds):
        z = run(PathBuffer(4, 2), call + 1, Source(i), seed=10_000 + i)[-1][0]
        first[i], second[i] = z.mean(), z.square().mean()
    assert abs(first.mean()) < 6 * first.std() / math.sqrt(rounds)
    assert abs(second.mean() - 1) < 6 * second.std() / math.sqrt(rounds)


def test_same_seeds_same_rows_and_another_seed_others():
    first, again = (run(PathBuffer(4, 2), 9, Source(), seed=3)[-1][0] for _ in range(2))
    other = run(PathBuffer(4, 2), 9, Source(), seed=4)[-1][0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_restored_buffer_continues_as_if_nothing_had_happened():
    like = torch.zeros(B, 1, dtype=torch.float64)
    whole, source, picker = PathBuffer(3, 2), Source(), generator(1)
    for _ in range(5):
        whole.draw(source, like, picker)
    other = PathBuffer(3, 2)
    other.restore(whole.state())
    for _ in range(4):
        fresh = source()
        state = picker.get_state()
        expected = whole.draw(lambda fresh=fresh: fresh, like, picker)
        picker.set_state(state)
        found = other.draw(lambda fresh=fresh: fresh, like, picker)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    other.restore({})
    assert other.state()["sizes"].tolist() == [0]


def test_rows_of_another_kind_are_forgotten():
    buffer, source = PathBuffer(4, 2), Source()
    run(buffer, 6, source)
    wide = buffer.draw(lambda: (torch.zeros(5, 2),), torch.zeros(5, 2), generator())[0]
    assert wide.shape == (5, 2)
    assert wide.dtype == torch.float32


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match="reuse: expected an integer >= 1"):
        PathBuffer(bad)
    with pytest.raises(ValueError, match="blocks: expected an integer >= 1"):
        PathBuffer(2, bad)
