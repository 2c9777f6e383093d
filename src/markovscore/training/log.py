"""The file in which a training run says how it goes, one line now and then."""

from pathlib import Path

import torch
from torch import Tensor

from ..core import write_whole
from .checkpoints import Run

COLUMNS = ("step", "seconds", "loss", "items_per_second", "lr", "ema_distance")
HEADER = ",".join(COLUMNS) + "\n"


class TrainingLog:
    """Comma-separated values under a header: one line every ``every`` steps, and after the last.

    A file that exists is cut back to ``step``, the last one that is done. A line without its end,
    which an interrupted write leaves, goes too; the file is replaced whole.

    Raises:
        ValueError: the file is something else than such a log.
    """

    def __init__(self, path: Path, every: int, step: int) -> None:
        self.path, self.every = path, every
        kept = [line for line in _lines(path) if int(line.split(",", 1)[0]) <= step]
        write_whole(path, HEADER + "".join(kept))

    def add(self, run: Run, batch_size: int) -> None:
        """Add the line of ``run.step``, if that is one which has a line."""
        if run.step % self.every and run.step != len(run.losses):
            return
        first = (run.step - 1) // self.every * self.every
        before = float(run.seconds[first - 1]) if first > 0 else 0.0
        seconds = float(run.seconds[run.step - 1])
        numbers = (
            seconds,
            float(run.losses[first : run.step].mean()),
            (run.step - first) * batch_size / (seconds - before),
            run.optimizer.param_groups[0]["lr"],
            _ema_distance(run),
        )
        with open(self.path, "a", newline="") as file:
            file.write(",".join([str(run.step), *(f"{x:.8g}" for x in numbers)]) + "\n")


def _lines(path: Path) -> list[str]:
    """The complete lines of the file, without the header; none where there is no file."""
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    head, *lines = text.splitlines(keepends=True) or [""]
    lines = [line for line in lines if line.endswith("\n")]
    foreign = [line for line in lines if not _is_row(line)]
    if not HEADER.startswith(head):
        foreign.insert(0, head)
    if foreign:
        raise ValueError(
            f"log: expected {path} to be a log with the columns {HEADER.strip()}, found the line "
            f"{foreign[0].strip()[:80]!r}: move it away, or pass another path"
        )
    return lines


def _is_row(line: str) -> bool:
    fields = line.split(",")
    return len(fields) == len(COLUMNS) and fields[0].isdecimal()


@torch.no_grad()
def _ema_distance(run: Run) -> float:
    """``|averaged weights - weights| / |weights|``, Euclidean, over all parameters together."""
    pairs = list(zip(run.average.module.parameters(), run.net.parameters(), strict=True))
    distance = _norm([a - w for a, w in pairs])
    return float(distance / _norm([w for _, w in pairs]))


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(v).double() for v in tensors]).norm()
