"""The house: floors, rooms and faces, drawn from the source by ``ast``; nothing is imported here.

A room is a folder or a file of ``src/markovscore``. Arrows point to lower floors, files of a room
do not import each other in a circle, and what crosses a wall is a name of the other room's face,
what its ``__init__`` imports: for the package, the tests, the benchmarks and the chapters.
"""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest
from conftest import ROOT

PACKAGE = "markovscore"
SOURCE = ROOT / "src" / PACKAGE
FLOORS = (
    ("core", "figures", "claims"),
    ("kernels", "eigenbasis", "networks", "training", "datasets", "reference", "metrics"),
    ("diffusions",),
    ("spectral", "targets"),
    ("objectives", "sampling"),
    ("estimator",),
    ("__init__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
LINES, BODY = 500, 50

# (line, module as written from the package's top, such as "core" or "targets.local"; names)
Import = tuple[int, str, list[str]]


def room_of(module: str) -> str:
    return module.split(".")[0] if module else "__init__"


def module_of(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts)


def imports(tree: ast.AST, module: str) -> Iterator[Import]:
    """What a file takes from the package, at its top or inside functions; ``module`` is its own
    name, ``""`` of a file outside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if node.level and not module:
                continue  # of the tests among themselves
            if node.level:
                above = module.split(".")[: -node.level]
                yield node.lineno, ".".join([*above, *filter(None, [node.module])]), names
            elif (node.module or "").split(".")[0] == PACKAGE:
                yield node.lineno, ".".join(str(node.module).split(".")[1:]), names
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE and "." in alias.name:
                    yield node.lineno, ".".join(alias.name.split(".")[1:]), []


def face(room: str, source: Path) -> set[str]:
    """The names that a room offers: a file what it defines, a folder what it imports from its
    files, or what ``__all__`` says where users import it; never one with a leading underscore."""
    path = source / f"{room}.py"
    path = path if path.is_file() else source / room / "__init__.py"
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and path.stem == "__init__":
            found |= {alias.asname or alias.name for alias in node.names}
    return {name for name in found if not name.startswith("_")}


def crossings(where: str, tree: ast.AST, module: str, source: Path) -> Iterator[str]:
    """What is wrong with the imports of one file."""
    home = room_of(module) if module else None
    for line, target, names in imports(tree, module):
        room, place = room_of(target), f"{where}:{line}"
        rooms = [name for name in names if target == "" and name in FLOOR] or [room]
        for other in rooms:
            if other == home:
                continue
            if other not in FLOOR:
                yield f"{place}: expected a room, found {other}"
            elif home is not None and FLOOR[other] >= FLOOR[home]:
                yield f"{place}: {home} (floor {FLOOR[home]}) imports {other} ({FLOOR[other]})"
        if room != home:
            if "." in target or not names:
                yield f"{place}: expected the face of {room}, found {target}"
            missing = set(names) - face(room, source) - (set(FLOOR) if target == "" else set())
            for name in sorted(missing - {"__version__"}):
                yield f"{place}: {name} is not in the face of {room}"


def privates(where: str, tree: ast.AST) -> Iterator[str]:
    """Underscore attributes of what a file outside the package takes from it, also in the strings
    by which something is patched."""
    taken = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            inside = isinstance(node, ast.Import) or (node.module or "").startswith(PACKAGE)
            for alias in node.names:
                if inside and (isinstance(node, ast.ImportFrom) or alias.name == PACKAGE):
                    taken.add(alias.asname or alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-zA-Z]", node.attr):
            start: ast.AST = node.value
            while isinstance(start, ast.Attribute):
                start = start.value
            if isinstance(start, ast.Name) and start.id in taken:
                yield f"{where}:{node.lineno}: {ast.unparse(node)} is private"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for found in re.findall(rf"\b{PACKAGE}(?:\.\w+)*\._[a-z]\w*", node.value):
                yield f"{where}:{node.lineno}: {found} is private"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The files of a circle, if there is one."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def own_imports(source: Path) -> dict[str, set[str]]:
    """The arrows between files of one room."""
    files = {module_of(path, source): path for path in source.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        arrows = set()
        for _, target, names in imports(ast.parse(path.read_text()), module):
            for name in names or [""]:
                places = (f"{target}.{name}", target, f"{target}.__init__")
                arrows |= set([place for place in places if place in files][:1])
        graph[module] = {name for name in arrows - {module} if room_of(name) == room_of(module)}
    return graph


def package_files(source: Path = SOURCE) -> list[tuple[str, Path]]:
    return [(module_of(path, source), path) for path in sorted(source.rglob("*.py"))]


def outside() -> Iterator[tuple[str, str]]:
    """Tests, benchmarks, the pipeline, and the cells of all chapters."""
    for folder in ("tests", "book"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()
    for path in sorted((ROOT / "book").rglob("*.md")):
        cells = jupytext.read(path, fmt="md:myst").cells
        text = "\n".join(c.source for c in cells if c.cell_type == "code")
        yield str(path.relative_to(ROOT)), re.sub(r"^[%!].*$", "", text, flags=re.MULTILINE)


def test_the_rooms_are_those_of_the_plan():
    seen = [path for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()]
    found = {path.stem for path in seen if not path.name.startswith(".")}
    assert found - {"__pycache__", "py"} == set(FLOOR)
    assert len(FLOOR) == 17  # the plan's sixteen, and scikit-learn's habits


def test_arrows_run_down_and_cross_by_faces():
    found = []
    for module, path in package_files():
        found += crossings(f"src/{module}", ast.parse(path.read_text()), module, SOURCE)
    assert not found, "\n".join(found)


def test_no_room_has_a_circle():
    assert circle(own_imports(SOURCE)) == []


def test_tests_and_chapters_use_faces():
    found = []
    for where, text in outside():
        tree = ast.parse(text)
        found += [*crossings(where, tree, "", SOURCE), *privates(where, tree)]
    assert not found, "\n".join(found)


def test_files_and_functions_have_a_size():
    found = []
    for module, path in package_files():
        text = path.read_text()
        if (count := len(text.splitlines())) > LINES:
            found.append(f"{module}: {count} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and "_triton" not in module:  # one program each
                first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
                if (count := int(node.end_lineno or 0) - first.lineno + 1) > BODY:
                    found.append(f"{module}:{node.lineno}: {node.name} has {count} lines")
    assert not found, "\n".join(found)


# The drawing sees what it is meant to see


@pytest.fixture
def house(tmp_path):
    """A small house: ``core`` with two files, ``targets`` above it."""

    def built(**files: str) -> Path:
        whole = {
            "__init__": "from .targets import law",
            "core/__init__": "from .walk import _step, walk",
            "core/walk": "def walk(): ...\ndef _step(): ...",
            "targets/__init__": "from .local import law",
            "targets/local": "from ..core import walk\ndef law(): ...",
        } | files
        for name, text in whole.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    return built


def wrong(source: Path) -> list[str]:
    return [
        problem
        for module, path in package_files(source)
        for problem in crossings(module, ast.parse(path.read_text()), module, source)
    ]


def test_a_house_in_order(house):
    source = house()
    assert wrong(source) == [] and circle(own_imports(source)) == []


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("core/walk", "from ..targets import law\ndef walk(): ...", r"core \(floor 1\) imports"),
        ("core/walk", "def walk():\n    from ..targets import law", r"core \(floor 1\) imports"),
        ("core/walk", "from .. import targets\ndef walk(): ...", r"core \(floor 1\) imports"),
        ("targets/local", "from ..core.walk import walk\ndef law(): ...", "expected the face"),
        ("targets/local", "from ..core.walk import _step\ndef law(): ...", "_step is not in"),
        ("targets/local", "from ..core import _step\ndef law(): ...", "_step is not in the face"),
        ("targets/local", "import markovscore.core.walk\ndef law(): ...", "expected the face"),
    ],
)
def test_an_arrow_that_runs_up_or_around_the_face_is_seen(house, file, text, words):
    assert any(re.search(words, problem) for problem in wrong(house(**{file: text})))


def test_a_circle_is_seen_also_of_late_imports(house):
    source = house(
        **{
            "core/walk": "def walk():\n    from .grid import grid",
            "core/grid": "from .walk import walk\ndef grid(): ...",
        }
    )
    assert set(circle(own_imports(source))) == {"core.grid", "core.walk"}


@pytest.mark.parametrize(
    "text",
    [
        "from markovscore.core import walk\nwalk._step()",
        "import markovscore as ms\nms.core.walk._step",
        f"def test(patch): patch.setattr('{PACKAGE}.core.walk._step', 1)",
    ],
)
def test_a_private_name_in_a_test_is_seen(text):
    assert list(privates("tests/x.py", ast.parse(text)))
