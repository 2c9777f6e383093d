"""CIFAR-10 on disk: Parquet files in, one memory-mapped array out, decoded once.

The cache is a folder ``<cache>/cifar10-<split>-<key>`` with ``pixels.npy`` (uint8 ``(N, 3072)``,
channels first), ``labels.npy`` and ``about.json``. ``key`` begins the SHA-256 of the source files,
so other files get another cache. The folder is complete or absent (``core.files.whole_folder``),
under a lock that processes on one machine share.

The library `datasets` reads no user's files here. On the 50,000 images (CPU seconds, one thread) it
needs 0.6 s and 100 MB for its import, 7.3 s to decode against 6.1 s, in each process anew where no
array is kept as here (0.06 s), 46 MB more on disk; a part that is missing, and a file that is not
that of ``SHA256SUMS``, it takes without a word.
"""

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import CACHE, cache_folder, checksum, crc32, whole_folder

SHAPE = (3, 32, 32)
CLASSES = 10
FOLDER = "MARKOVSCORE_CIFAR10"
HUB = "uoft-cs/cifar10"
BOTH_WAYS = (
    f"set {FOLDER} to a folder with the files train-*.parquet and test-*.parquet of the data set "
    f"{HUB} on huggingface.co, or connect to the network with the library `datasets` installed "
    "(pip install 'markovscore[images]'), which downloads them"
)
_FORMAT = 1
ROWS = 1000
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")


@dataclass(frozen=True)
class _Source:
    """Encoded images: ``files`` name their content, ``batches()`` are Arrow tables, in order."""

    name: str
    files: tuple[Path, ...]
    schema: Any
    rows: int
    batches: Callable[[], Iterator[Any]]


def open_split(split: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Pixels ``(N, 3072)`` (memory-mapped, private), labels ``(N,)`` and checksum of one split."""
    from filelock import FileLock  # not when `markovscore` is imported

    folder = os.environ.get(FOLDER)
    sources = _local(Path(folder).expanduser(), split) if folder else _hub(split)
    content = b"".join(_sha256(path) for source in sources for path in source.files)
    target = cache_folder() / f"cifar10-{split}-{hashlib.sha256(content).hexdigest()[:16]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not target.exists():
                _write(sources, target)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise PermissionError(
            f"{CACHE}: expected a folder that can be written, found {target.parent} ({error}): "
            f"set {CACHE} to another one, with 200 MB to spare"
        ) from error
    return _read(target)


def _local(folder: Path, split: str) -> list[_Source]:
    """The Parquet files of a split in ``folder`` or its ``plain_text``, none missing."""
    if not folder.is_dir():
        found = f"the file {folder}" if folder.exists() else f"nothing at {folder}"
        raise FileNotFoundError(f"{FOLDER}: expected a folder, found {found}: correct the variable")
    pattern = f"{split}-*.parquet"
    files = sorted(folder.glob(pattern)) or sorted(folder.glob(f"plain_text/{pattern}"))
    if not files:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise FileNotFoundError(
            f"{FOLDER}: expected {pattern} in {folder} or its subfolder plain_text, found {there}: "
            f"copy there the Parquet files of {HUB}"
        )
    numbers = [_SHARD.search(path.name) for path in files]
    totals = {int(number[2]) for number in numbers if number}
    if totals - {len(files)}:
        raise FileNotFoundError(
            f"{FOLDER}: expected {max(totals)} files {pattern} in {files[0].parent}, found "
            f"{len(files)}: copy all parts of one version, and no other"
        )
    _check_sums(files)
    return [_parquet(path) for path in files]


def _check_sums(files: Sequence[Path]) -> None:
    """Compare with ``SHA256SUMS`` beside the files (as ``sha256sum`` writes it), if it is there."""
    listing = files[0].parent / "SHA256SUMS"
    if not listing.is_file():
        return
    words = [line.split() for line in listing.read_text(encoding="utf-8").splitlines()]
    expected = {line[-1].lstrip("*"): line[0].lower() for line in words if line}
    for path in files:
        found = _sha256(path).hex()
        if expected.get(path.name, found) != found:
            raise ValueError(
                f"{path}: expected the SHA-256 {expected[path.name]} of {listing.name}, found "
                f"{found}: copy the file again"
            )


def _sha256(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _parquet(path: Path) -> _Source:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(
            f"CIFAR-10: expected the library `pyarrow` to read {path.name}, found none: "
            "pip install 'markovscore[images]'"
        ) from error

    @contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{path}: expected a whole Parquet file, found {path.stat().st_size} bytes that "
                f"cannot be read ({str(error).splitlines()[0]}): copy the file again"
            ) from error

    def batches() -> Iterator[Any]:
        with explained(), ParquetFile(path, page_checksum_verification=True) as file:
            yield from file.iter_batches(ROWS, columns=["img", "label"])

    with explained(), ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    return _Source(str(path), (path,), schema, rows, batches)


def _hub(split: str) -> list[_Source]:
    """What the library `datasets` downloads, or finds in its own cache."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"CIFAR-10: expected the data or a way to get them, found neither: {BOTH_WAYS}"
        ) from error
    try:
        data = datasets.load_dataset(HUB, split=split)
    except OSError as error:  # no network, or no such host, and nothing in its own cache
        raise FileNotFoundError(
            f"CIFAR-10: expected {FOLDER} or a connection to the hub, found neither ({error}): "
            f"{BOTH_WAYS}"
        ) from error
    encoded = data.with_format("arrow")
    files = tuple(Path(entry["filename"]) for entry in data.cache_files)
    schema = data.features.arrow_schema
    return [_Source(HUB, files, schema, len(data), lambda: encoded.iter(batch_size=ROWS))]


def _write(sources: Sequence[_Source], target: Path) -> None:
    """Decode into ``target``, which appears complete or not at all, in constant memory."""
    rows = sum(source.rows for source in sources)
    if not rows:
        raise ValueError(f"{sources[0].name}: expected images, found none: copy the file again")
    labels, crc = [], 0
    with whole_folder(target) as folder:
        with (folder / "pixels.npy").open("wb") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (rows, math.prod(SHAPE))}
            np.lib.format.write_array_header_1_0(stream, header)
            for pixels, label in (batch for source in sources for batch in _decoded(source)):
                stream.write(pixels.data)
                crc = crc32(pixels, crc)
                labels.append(label)
        label = np.concatenate(labels)
        np.save(folder / "labels.npy", label)
        about = {"format": _FORMAT, "checksum": content_checksum(label, crc)}
        about["files"] = [path.name for source in sources for path in source.files]
        (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _decoded(source: _Source) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of pixels ``(n, 3072)``, channels first, and labels ``(n,)``."""
    _check_columns(source)
    row = 0
    for table in source.batches():
        images, labels = table.column("img").to_pylist(), table.column("label").to_pylist()
        for offset, (image, label) in enumerate(zip(images, labels, strict=True)):
            if image is None or image["bytes"] is None or label not in range(CLASSES):
                raise ValueError(
                    f"{source.name}, row {row + offset}: expected an image and a label in "
                    f"0..{CLASSES - 1}, found {'an' if image else 'no'} image and label {label}: "
                    "copy the file again"
                )
        pixels = _decode([image["bytes"] for image in images], source.name, row)
        row += len(images)
        yield pixels, np.asarray(labels, dtype=np.int64)


def _check_columns(source: _Source) -> None:
    columns = {field.name: field.type for field in source.schema}
    img, label = str(columns.get("img")), str(columns.get("label"))
    if not (re.match(r"struct<.*\bbytes: (large_)?binary\b", img) and label.startswith("int")):
        found = ", ".join(f"{name}: {kind}" for name, kind in columns.items())
        raise ValueError(
            f"{source.name}: expected the columns img: struct<bytes: binary, path: string> and "
            f"label: int64, found {found}: the layout is that of {HUB} on huggingface.co"
        )


def _decode(encoded: Sequence[bytes], name: str, first: int) -> np.ndarray:
    """PNG or JPEG files to pixels. One thread: a second one costs more than it does (9.1 s against
    5.0 s for 50,000 images), because half the work on so small an image is Python's own."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "CIFAR-10: expected the library `pillow` to decode images, found none: "
            "pip install 'markovscore[images]'"
        ) from error
    channels, height, width = SHAPE
    pixels = np.empty((len(encoded), height, width, channels), dtype=np.uint8)
    for row, content in enumerate(encoded):
        where = f"{name}, row {first + row}"
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                if image.size != (width, height) or image.mode != "RGB":
                    raise ValueError(
                        f"{where}: expected an RGB image of {width} x {height} pixels, found "
                        f"{image.mode} of {image.width} x {image.height}: these are not the images "
                        f"of {HUB}"
                    )
                pixels[row] = np.asarray(image)
        except (OSError, SyntaxError) as error:  # Pillow raises the latter for a broken PNG
            raise ValueError(
                f"{where}: expected a PNG or JPEG file, found {len(content)} bytes that cannot be "
                f"decoded ({error}): copy the file again"
            ) from error
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(encoded), -1)


def content_checksum(labels: np.ndarray, crc: int) -> str:
    """CRC-32 of the pixels, continued over the labels: eight hexadecimal digits."""
    return checksum(labels.astype("<i8"), start=crc)


def _read(target: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Open a cache and compare its checksum (0.1 s for 50,000 images)."""
    remedy = f"delete the folder {target}, and the next call decodes the images again"
    try:
        about = json.loads((target / "about.json").read_text(encoding="utf-8"))
        expected, version = about["checksum"], about["format"]
        # Mode "c": private and writable, so that torch can share it without a warning.
        pixels = np.load(target / "pixels.npy", mmap_mode="c")
        labels = np.load(target / "labels.npy")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cache: expected pixels.npy, labels.npy and about.json in {target}, found {error!r}: "
            f"{remedy}"
        ) from error
    if version != _FORMAT:
        raise ValueError(f"cache: expected format {_FORMAT}, found {version}: {remedy}")
    found = content_checksum(labels, crc32(pixels))
    if found != expected:
        raise ValueError(f"cache: expected the checksum {expected}, found {found}: {remedy}")
    return pixels, labels, found
