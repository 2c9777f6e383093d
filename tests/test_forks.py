"""Kernels that are forks of one process: like others in all but the start, and ended with it."""

import json
import os
import signal
import sys
import time

import jupyter_client
import processes
import psutil
import pytest
import run_chapter
from contents import BuildError


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return processes.environment(tmp_path_factory.mktemp("build"), "smoke")


@pytest.fixture(scope="module")
def forks(environment):
    with processes.forked(environment) as variables:
        yield environment | variables


@pytest.fixture
def start(tmp_path):
    """``start(variables)`` is a kernel, and its manager, in an empty folder."""
    begun = []

    def new(variables, **more):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            manager, client = jupyter_client.manager.start_new_kernel(
                kernel_name="python3", cwd=str(tmp_path), **more
            )
        begun.append((manager, client))
        return client, manager

    yield new
    for manager, client in begun:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def value(client, code):
    """What the last line of ``code`` is, as JSON."""
    *lines, last = code.splitlines()
    code = "\n".join(["import json", *lines, f"print(json.dumps({last}))"])
    printed = []
    reply = client.execute_interactive(code, output_hook=printed.append)["content"]
    assert reply["status"] == "ok", reply
    return json.loads("".join(message["content"].get("text", "") for message in printed))


STATE = """import os, random, sys
before = sorted(set(sys.modules) & {"torch", "markovscore"})
import numpy, torch, markovscore
state = {"before": before, "path": sys.path, "threads": torch.get_num_threads()}
state |= {"names": sorted(name for name in globals() if not name.startswith("_"))}
state |= {"folder": os.getcwd(), "here": "HERE" in os.environ}
state |= {"drawn": [random.random(), numpy.random.rand(), torch.rand(1).item(), hash("text")]}
state"""


def test_a_fork_is_a_kernel_like_others(start, forks, environment, tmp_path):
    """Their own: what is drawn without a seed. The same for all: how text is hashed."""
    ours = [value(start(forks | {"HERE": "1"})[0], STATE) for _ in range(2)]
    plain = value(start(environment | {"HERE": "1"})[0], STATE)
    first, second = (state.pop("drawn") for state in ours)
    third = plain.pop("drawn")
    assert [len(set(values)) for values in zip(first, second, third, strict=True)] == [3, 3, 3, 1]
    assert [state.pop("before") for state in ours] == [["markovscore", "torch"]] * 2
    assert plain.pop("before") == []
    assert ours == [plain] * 2
    assert plain["folder"] == str(tmp_path) and plain["here"]


def test_signals_and_ends(start, forks):
    """An interrupt reaches the cell; when the process dies that Jupyter started, so does all that
    the kernel has started."""
    client, manager = start(forks)
    message = client.execute("import time\ntime.sleep(600)", stop_on_error=False)
    time.sleep(0.5)
    manager.interrupt_kernel()
    while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != message:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    ids = "import os, subprocess\n[os.getpid(), subprocess.Popen(['sleep', '600']).pid]"
    started = [psutil.Process(pid) for pid in value(client, ids)]
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(started, timeout=60)
    assert len(gone) == 2 and not alive


def test_without_an_answer_it_is_an_ordinary_kernel(start, environment, monkeypatch, tmp_path):
    """The process is gone; or it cannot import the package: then the chapter says why."""
    with processes.forked(environment) as variables:
        pass
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    script, address = processes.BOOK / "fork.py", f"{variables['JUPYTER_PATH']}/s"
    argv = [sys.executable, "-IS", str(script), address, "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    client, _ = start(environment | {"JUPYTER_PATH": str(tmp_path)})
    assert value(client, "import sys\n'torch' in sys.modules") is False
    (tmp_path / "markovscore.py").write_text("raise RuntimeError('edited')")
    broken = environment | {"PYTHONPATH": str(tmp_path)}
    with processes.forked(broken) as variables:
        client, _ = start(broken | variables)
        reply = client.execute_interactive("import markovscore", output_hook=id)["content"]
    assert (reply["ename"], reply["evalue"]) == ("RuntimeError", "edited")


@pytest.mark.parametrize(
    ("chapter", "path"), [("reproduction/performance", None), ("appendices/hermite", "forks")]
)
def test_what_is_read_at_import_is_set_in_a_kernel_of_its_own(chapter, path, monkeypatch, tmp_path):
    """Triton, that the process which is forked has imported, reads its variable only then."""
    seen = []

    def run(*_):
        seen.append(os.environ.get("JUPYTER_PATH"))
        raise RuntimeError("far enough")

    monkeypatch.setenv("JUPYTER_PATH", "forks")
    monkeypatch.setattr(run_chapter, "BUILD", tmp_path)
    monkeypatch.setattr(run_chapter, "_run", run)
    with pytest.raises(BuildError, match="far enough"):
        run_chapter.execute(chapter, "smoke", tmp_path / "out.ipynb")
    assert seen == [path]


def test_its_cpu_time_is_the_chapters(forks, tmp_path, monkeypatch):
    for name, value in forks.items():
        monkeypatch.setenv(name, value)
    chapter = tmp_path / "chapter.md"
    chapter.write_text(BUSY)
    monkeypatch.setattr(run_chapter, "page_path", lambda name: chapter)
    monkeypatch.setattr(run_chapter, "BUILD", tmp_path)
    took = run_chapter.execute("busy", "ci", tmp_path / "out.ipynb")
    assert took["cpu_seconds"] >= 2
    assert run_chapter.SPENT not in os.environ
    assert [path.name for path in (tmp_path / "errors" / "ci").iterdir()] == []


BUSY = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

```{code-cell} ipython3
import time
while time.process_time() < 2:
    pass
```
"""
