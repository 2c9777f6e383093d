"""One process that has imported what a kernel needs; kernels are forks of it.

Jupyter starts ``fork.py <address> -f <connection file>``, a small process that asks at the address
for a kernel and stands for it: it passes signals on, and each ends with the other. Where nothing
answers (another machine of a cluster, a package that cannot be imported) it becomes an ordinary
kernel. ``fork.py`` alone is the process that answers, at the socket that is its standard input.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

# What chapters use, and what kernels do; torch imports the first with an optimiser or a Jacobian.
IMPORTED = ["torch._dynamo", "markovscore", "markovscore.figures", "matplotlib.pyplot"]
IMPORTED += ["ipykernel.kernelapp", "matplotlib_inline.backend_inline"]
SPENT = "MARKOVSCORE_SPENT"  # a file for the kernel's CPU seconds: it is no child of who asked


def stand_for_kernel(address: str, *arguments: str) -> None:
    """Ask for a kernel in this process's folder, environment and streams, and last as long as it.

    The kernel's messages do not come this way: it listens where the connection file says.
    """
    parent = os.getppid()
    request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    pid = b""
    with socket.socket(socket.AF_UNIX) as server:
        with suppress(OSError):
            server.connect(address)
            socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
            server.sendall(request)
            pid = server.recv(4)
        if not pid:
            command = [sys.executable, "-m", "ipykernel_launcher", *arguments]
            os.execv(sys.executable, command)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(int.from_bytes(pid, "big"), number))
        server.settimeout(1.0)
        while os.getppid() == parent:
            with suppress(TimeoutError):
                if not server.recv(1):
                    return


def answer(listener: socket.socket) -> None:
    """Fork a kernel for each connection, as long as the process lives that started this one."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is for the build, which ends this process
    kernels: dict[int, tuple[socket.socket, str]] = {}
    listener.settimeout(0.1)
    while os.getppid() == parent:
        close_ended(kernels)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        try:
            for name in IMPORTED:
                importlib.import_module(name)
        except Exception:  # an ordinary kernel meets it in the chapter's own cell
            return
        gc.freeze()
        arguments, folder, environment, streams = received(connection)
        pid = os.fork()
        if not pid:
            for one, _ in [(listener, ""), *kernels.values()]:
                one.close()
            enter(folder, environment, streams)
            become_kernel(arguments, connection)
            return
        for stream in streams:
            os.close(stream)
        with suppress(OSError):  # who asked is gone: the kernel sees it, too
            connection.sendall(pid.to_bytes(4, "big"))
        kernels[pid] = connection, environment.get(SPENT, os.devnull)


def close_ended(kernels: dict[int, tuple[socket.socket, str]]) -> None:
    """Write what each kernel that has ended has spent, then tell the process that asked for it."""
    while kernels:
        pid, _, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            return
        connection, spent = kernels.pop(pid)
        with suppress(OSError):  # who asked is gone, with its folder
            Path(spent).write_text(str(usage.ru_utime + usage.ru_stime))
        connection.close()


def received(connection: socket.socket) -> tuple[list[str], str, dict[str, str], list[int]]:
    """A kernel's arguments, folder, environment and streams."""
    connection.settimeout(None)
    size, streams, *_ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as file:
        request = json.loads(file.read(int.from_bytes(size, "big")))
    return *request, streams


def enter(folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """Take the place of the process that asked.

    What a fresh process draws at random is not shared with other forks: Python's generator is
    seeded anew in every fork, those of libraries are here.
    """
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name in {"numpy.random", "torch"} & set(sys.modules):
        sys.modules[name].seed()


def become_kernel(arguments: list[str], connection: socket.socket) -> None:
    """Serve as a kernel until its manager says so, or the process that asked or the origin ends."""
    threading.Thread(target=end_with, args=(connection,), daemon=True).start()
    origin = f"--IPKernelApp.parent_handle={os.getppid()}"
    sys.argv = ["ipykernel_launcher", *arguments, origin]
    importlib.import_module("ipykernel.kernelapp").launch_new_instance()


def end_with(connection: socket.socket) -> None:
    """Wait for the end of the process that asked, and kill this one and all that it has started."""
    with suppress(OSError):
        connection.recv(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1:]:
        stand_for_kernel(*sys.argv[1:])
    else:
        del sys.path[0]  # this file's folder, which kernels do not see
        answer(socket.socket(fileno=0))
