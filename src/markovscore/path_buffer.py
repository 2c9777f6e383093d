"""Simulated paths that are used several times: the forward process does not depend on the network.

Simulating a path of a nonlinear process costs many evaluations of its drift, and nothing in it
changes while a network learns. So an objective keeps its latest paths and draws its batches from
them; see :class:`PathBuffer` for what that does to the law of a batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Rows = tuple[Tensor, ...]


class PathBuffer:
    """The latest ``blocks`` batches of simulated rows, of which one is replaced now and then.

    A call of :meth:`draw` for ``B`` rows returns ``B`` rows at random, with replacement, among
    those held. It simulates a fresh block of ``B`` in each of the first ``blocks`` calls and then
    in every ``reuse``-th, which takes the place of the oldest. Once full, therefore,

    * the effective refresh rate is ``1 / reuse`` fresh rows per row drawn;
    * a row stays for ``blocks * reuse`` calls and is drawn ``reuse`` times on average;
    * fresh rows come in whole blocks: many small simulations would cost as much as many large ones.

    **Unbiased.** Which rows are drawn does not depend on what is in them, so every row of every
    batch has exactly the law of a freshly simulated one, and the mean of any function of it (a loss
    at fixed weights) is the same with the buffer as without. Two things do change: rows of
    batches ``blocks * reuse`` calls apart or closer are dependent, so averages over many calls have
    the variance of the fresh rows, not of all draws; and the weights of a network that trains
    have seen the rows before, as in a second epoch over the same data.

    Args:
        reuse: uses of a row, on average; 1 keeps nothing.
        blocks: batches held.

    Raises:
        ValueError: ``reuse`` or ``blocks`` is not an integer >= 1.
    """

    def __init__(self, reuse: int = 8, blocks: int = 8) -> None:
        for name, value in (("reuse", reuse), ("blocks", blocks)):
            if isinstance(value, bool) or int(value) != value or value < 1:
                raise ValueError(f"{name}: expected an integer >= 1, found {value!r}")
        self.reuse, self.blocks = int(reuse), int(blocks)
        self._calls = 0
        self._sizes: list[int] = []
        self._rows: Rows = ()

    def __repr__(self) -> str:
        return f"PathBuffer(reuse={self.reuse}, blocks={self.blocks})"

    def draw(self, simulate: Callable[[], Rows], like: Tensor, generator: torch.Generator) -> Rows:
        """As many rows as ``like`` ``(B, d)`` has, of every tensor that ``simulate()`` returns.

        ``simulate()`` makes ``B`` fresh rows, the first tensor of the kind of ``like``;
        ``generator`` picks the rows, on their device. Rows of another dtype, device or dimension
        than ``like`` are forgotten.
        """
        if self.reuse == 1:
            return simulate()
        if self._rows and _kind(self._rows[0]) != _kind(like):
            self.restore({})
        if len(self._sizes) < self.blocks or self._calls % self.reuse == 0:
            self._refresh(simulate())
        self._calls += 1
        total, device = sum(self._sizes), self._rows[0].device
        chosen = torch.randint(total, (len(like),), generator=generator, device=device)
        return tuple(field[chosen] for field in self._rows)

    def state(self) -> dict[str, Tensor]:
        """All that :meth:`restore` needs to go on as if nothing had happened, as named tensors."""
        named = {str(i): field for i, field in enumerate(self._rows)}
        return named | {"sizes": torch.tensor([self._calls, *self._sizes])}

    def restore(self, state: dict[str, Tensor], device: torch.device | None = None) -> None:
        """Continue from a :meth:`state`; an empty one empties the buffer."""
        if not state:
            self._calls, self._sizes, self._rows = 0, [], ()
            return
        self._calls, *self._sizes = state["sizes"].tolist()
        self._rows = tuple(state[str(i)].to(device) for i in range(len(state) - 1))

    def _refresh(self, fresh: Rows) -> None:
        drop = self._sizes.pop(0) if len(self._sizes) == self.blocks else 0
        held = self._rows or tuple(field[:0] for field in fresh)
        self._rows = tuple(
            torch.cat([old[drop:], new]) for old, new in zip(held, fresh, strict=True)
        )
        self._sizes.append(len(fresh[0]))


def _kind(y: Tensor) -> tuple[torch.dtype, torch.device, torch.Size]:
    return y.dtype, y.device, y.shape[1:]
