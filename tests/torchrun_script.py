"""What tests/test_distributed.py has two processes do; each writes down what it found."""

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from runs import Buffered, Pixels, pixel_net, pixel_run, weights

from markovscore.training import train


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def outcome(net, result):
    gradients = [p.grad for p in net.parameters()]
    return {
        "weights": weights(net),
        "average": weights(result.score),
        "gradients": gradients,
        "losses": result.losses,
    }


def error_of(**changes):
    settings = {"batch_size": 24, "progress": False} | changes
    data = settings.pop("data", Pixels())
    try:
        train(pixel_net(), Buffered(), data, 3, **settings)
    except ValueError as error:
        return str(error)
    return "none"


def main(folder):
    rank = int(os.environ["RANK"])
    found, seen = {}, []
    mine = folder / f"rank{rank}"  # only one process may write, so only one of the two appears

    # The networks start differently: that of rank 0 counts.
    found["plain"] = outcome(
        *pixel_run(
            net=pixel_net(seed=rank),
            checkpoint=folder / "plain",
            log=mine / "log.csv",
            progress=True,
            callback=lambda step, score: seen.append(step),
        )
    )
    found["callbacks"], found["left"] = seen, dist.is_initialized()
    found["four shards"] = outcome(*pixel_run(shards=4))
    # Continued from what one process has begun, and ended early for one that goes on.
    found["continued"] = outcome(*pixel_run(shards=2, checkpoint=folder / "one then two"))
    loss = Buffered(strikes=11, strike=terminate) if rank == 1 else Buffered()
    try:
        pixel_run(objective=loss, checkpoint=folder / "two then one")
    except SystemExit as stopped:
        found["stopped"] = stopped.code
    found["minutes"] = outcome(*pixel_run(checkpoint=folder / "minutes", checkpoint_minutes=1e-9))

    dist.init_process_group("gloo")
    found["errors"] = [
        error_of(shards=3),
        error_of(batch_size=25),
        error_of(seed=rank),
        error_of(data=Pixels(checksum=f"of rank {rank}")),
        error_of(checkpoint=mine / "own" if rank else folder / "plain two"),
    ]
    found["kept"] = dist.is_initialized()
    dist.destroy_process_group()
    torch.save(found, folder / f"found{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
