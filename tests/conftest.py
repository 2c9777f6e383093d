"""Shared by all tests: where the book is, and every chapter executed once in the smoke profile."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

os.environ.setdefault("MPLBACKEND", "Agg")
# Triton decides when it is imported, and torch imports it for its compiler before any kernel does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book"))


# Files that take minutes; begun last, one process would work at them while the others wait.
LONG = ("test_pipeline.py", "test_book.py", "test_notebooks.py", "test_path_shift.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, in their own order; all others as they are."""
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all pytest processes of this run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def smoke(shared_folder: Path) -> Iterator[Callable[[str], Path]]:
    """``smoke(chapter)`` is the chapter's notebook, executed in the smoke profile once a run."""
    import contents
    import processes
    import run_chapter
    import run_training
    import trainings

    build = shared_folder / "build"
    environment = processes.environment(build, "smoke")

    def executed(chapter: str) -> Path:
        output = shared_folder / "smoke" / f"{chapter}.ipynb"
        output.parent.mkdir(parents=True, exist_ok=True)
        for name in ("measurements", "claims.yml"):  # what chapters read, one folder up
            with FileLock(shared_folder / "links.lock"):
                if not (shared_folder / "smoke" / name).is_symlink():
                    (shared_folder / "smoke" / name).symlink_to(ROOT / "book" / name)
        with FileLock(output.with_suffix(".lock")), pytest.MonkeyPatch.context() as patch:
            for name, value in (environment | forks).items():
                patch.setenv(name, value)
            patch.setattr(run_chapter, "BUILD", build)
            patch.setattr(run_chapter, "ROOT", shared_folder)
            if not output.exists():
                for run in trainings.named(contents.page_path(chapter).read_text(), "smoke"):
                    run_training.make(run, "smoke", build / "runs" / "smoke")
                run_chapter.execute(chapter, "smoke", output)
        return output

    with processes.forked(environment) as forks:
        yield executed
