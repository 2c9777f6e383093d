"""Images: the law of dequantised pixels, and CIFAR-10 from small Parquet files written here.

The real files are read by one test, where MARKOVSCORE_CIFAR10 names them.
"""

import hashlib
import io
import math
import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from odd_inputs import refused
from PIL import Image
from statistical import F64, agrees, rng

import markovscore as ms
from markovscore.datasets import load_cifar10, load_digits

REAL = os.environ.get("MARKOVSCORE_CIFAR10")


def images(pixels, shape, levels=256, **more):
    pixels = torch.as_tensor(pixels, dtype=torch.uint8)
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    fields = {"name": "made", "split": "train", "checksum": "0"} | more
    return ms.Images(pixels, labels, shape, levels, **fields)


# -- dequantisation and bits per dimension


def test_dequantised_pixels_are_uniform_on_their_cells():
    levels, n = 5, 40_000
    pixels = torch.arange(levels).repeat(n // levels)[:, None].expand(-1, 2)
    x = images(pixels, (1, 1, 2), levels).dequantised(rng())
    assert x.dtype == torch.float32 and x.shape == (n, 2)
    u = (x.double() + 1) * levels / 2 - pixels
    assert u.min() > -1e-6 and u.max() < 1 + 1e-6
    u = u - 0.5
    assert agrees(u) and agrees(u.square(), 1 / 12) and agrees(u.prod(1))


@pytest.mark.parametrize("levels", [17, 256])
def test_bits_per_dimension_of_a_known_law_are_its_entropy(levels):
    """Independent pixels with histogram h: x has the density prod h(p_i) L / 2, constant on cells.

    Its bits/dim at any x of the cell of p are -mean log2 h(p_i): exactly the code length of p.
    """
    g, n, d = rng(1), 4000, 12
    histogram = torch.rand(levels, generator=g, dtype=F64) + 0.05
    histogram /= histogram.sum()
    pixels = torch.multinomial(histogram, n * d, replacement=True, generator=g).reshape(n, d)
    data = images(pixels, (3, 2, 2), levels)
    x = data.dequantised(g).double()
    cell = ((x + 1) / 2 * levels).floor().long().clamp(0, levels - 1)
    # float32 rounds up to the next cell where U lies within half a unit of its end
    assert (cell != pixels).double().mean() < 1e-4
    bits = data.bits_per_dim((histogram[cell] * levels / 2).log().sum(1))
    torch.testing.assert_close(bits, -histogram[cell].log2().mean(1), rtol=0, atol=1e-12)
    assert agrees(bits, -(histogram * histogram.log2()).sum())


def test_uniform_pixels_need_all_bits():
    data = images(torch.zeros(1, 3072), (3, 32, 32))
    log_prob = torch.tensor(-3072 * math.log(2), dtype=F64)  # density 2^-d on [-1, 1]^d
    assert data.bits_per_dim(log_prob).item() == pytest.approx(8.0, abs=1e-12)


def test_bits_per_dimension_bound_the_law_of_the_pixels():
    """A density that varies within cells costs at least the bits of the pixel law it implies."""
    levels = 4
    data = images(torch.arange(levels)[:, None], (1, 1, 1), levels)
    edges = torch.linspace(-1, 1, levels + 1, dtype=F64)
    normal = torch.distributions.Normal(torch.tensor(0.2, dtype=F64), 0.3)
    law = normal.cdf(edges[1:]) - normal.cdf(edges[:-1])  # a subprobability: no further cost
    fine = torch.linspace(0, 1, 1001, dtype=F64)[:-1] + 5e-4
    x = edges[:-1, None] + fine * 2 / levels
    bits = data.bits_per_dim(normal.log_prob(x)).mean(1)
    assert (bits > -law.log2() + 1e-3).all()


# -- the class


def test_points_are_float32_whatever_the_default():
    digits, default = load_digits("test"), torch.get_default_dtype()
    expected = digits.batch([0, 5], rng())
    torch.set_default_dtype(F64)
    try:
        found = digits.batch([0, 5], rng())
    finally:
        torch.set_default_dtype(default)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_batches_are_all_images_once_in_order():
    pixels = torch.randint(0, 256, (7, 12), generator=rng(), dtype=torch.uint8)
    data = images(pixels, (3, 2, 2))
    found = list(data.batches(3, rng()))
    assert [len(x) for x in found] == [3, 3, 1]
    floor = ((torch.cat(found).double() + 1) * 128 + 1e-6).floor()
    assert ((floor - pixels).abs() <= 1).all()
    assert ((floor == pixels).double().mean()) > 0.99


def test_noise_is_fresh_and_belongs_to_the_generator():
    data = images(torch.full((4, 3), 9), (3, 1, 1))
    g = rng()
    first, second = data.batch([2, 0], g), data.batch([2, 0], g)
    assert not torch.equal(first, second)
    assert torch.equal(first, data.batch(torch.tensor([2, 0]), rng()))
    assert torch.equal(data.dequantised(rng(3), 2), data.batch(slice(0, 2), rng(3)))


def test_take_has_its_own_checksum_and_split():
    data = load_digits("test")
    few = data.take(10)
    assert (len(few), few.split, few.name) == (10, "test", "digits")
    assert torch.equal(few.pixels, data.pixels[:10]) and torch.equal(few.labels, data.labels[:10])
    assert few.checksum != data.checksum
    assert data.take(len(data)).checksum == data.checksum


def test_display_is_the_inverse():
    pixels = torch.arange(24, dtype=torch.uint8).reshape(2, 12)
    data = images(pixels, (3, 2, 2))
    shown = data.to_display((2 * pixels.double() / 256) - 1)
    assert shown.shape == (2, 2, 2, 3)
    for c, h, w in [(0, 0, 0), (1, 0, 1), (2, 1, 0)]:
        assert shown[1, h, w, c] * 256 == pytest.approx(12 + 4 * c + 2 * h + w)
    grey = images(pixels, (1, 3, 4)).to_display(torch.tensor([[-9.0] * 6 + [9.0] * 6]))
    assert grey.shape == (1, 3, 4)
    assert grey.min() == 0 and grey.max() == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixels": torch.zeros(2, 12)}, "uint8"),
        ({"pixels": torch.zeros(2, 11, dtype=torch.uint8)}, r"\(N, 12\)"),
        ({"pixels": torch.zeros(0, 12, dtype=torch.uint8)}, r"\(N, 12\)"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels"),
        ({"levels": 300}, "2 to 256"),
        ({"levels": 4, "pixels": torch.full((2, 12), 4, dtype=torch.uint8)}, "below levels"),
        ({"split": "validation"}, "train, test"),
    ],
)
def test_fields_must_agree(change, words):
    refused(words, replace, images(torch.zeros(2, 12), (3, 2, 2)), **change)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data: data.take(3), "n: expected an integer from 1 to 2"),
        (lambda data: data.take(0), "n: expected an integer from 1 to 2"),
        (lambda data: data.dequantised(rng(), 3), "n: expected an integer from 1 to 2"),
        (lambda data: data.batches(0, rng()), "size"),
        (lambda data: data.to_display(torch.zeros(1, 5)), r"\(B, 12\)"),
        (lambda data: load_digits("all"), "train, test"),
        (lambda data: load_cifar10("all"), "train, test"),
    ],
)
def test_bad_arguments(call, words):
    refused(words, call, images(torch.zeros(2, 12), (3, 2, 2)))


# -- digits


def test_digits_are_split_once_and_for_all():
    from sklearn.datasets import load_digits as embedded

    train, test = load_digits("train"), load_digits("test")
    assert (len(train), len(test), train.shape, train.levels) == (1500, 297, (1, 8, 8), 17)
    pixels, labels = embedded(return_X_y=True)
    rows = np.c_[pixels, labels]
    parts = [np.c_[part.pixels.numpy(), part.labels.numpy()] for part in (train, test)]
    found = np.concatenate(parts)
    assert sorted(map(tuple, found)) == sorted(map(tuple, rows))  # each exactly once
    assert not np.array_equal(found, rows)  # the original order follows the writers
    assert (train.checksum, test.checksum) == ("dc536c4e", "01b42d70")


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    refused("pip install scikit-learn", load_digits, "train", error=ImportError)


# -- CIFAR-10


def encode(pixels, kind="PNG"):
    """A ``(C, H, W)`` array as the bytes of a picture file."""
    stream, array = io.BytesIO(), pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


WHOLE = "train-00000-of-00001.parquet"


def write(path, pixels, labels, encoded=None, **options):
    """A Parquet file in the layout of the Hugging Face hub."""
    encoded = [encode(p) for p in pixels] if encoded is None else encoded
    rows = [{"bytes": e, "path": f"{i}.png"} for i, e in enumerate(encoded)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"img": pa.array(rows, kind), "label": pa.array(labels, pa.int64())}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.fixture
def data(tmp_path, monkeypatch):
    """40 random pictures, as the only file of the training split."""
    monkeypatch.setenv("MARKOVSCORE_CIFAR10", str(tmp_path / "data"))
    monkeypatch.setenv("MARKOVSCORE_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    labels = random.integers(0, 10, 40)
    write(tmp_path / "data" / WHOLE, pixels, labels)
    return pixels, labels


@pytest.fixture
def path(tmp_path, data):
    """Where that file is."""
    return tmp_path / "data" / WHOLE


@pytest.fixture
def seven_rows(monkeypatch):
    """Batches that do not divide the rows."""
    monkeypatch.setattr("markovscore.datasets.cifar10.ROWS", 7)


def caches(tmp_path):
    return sorted(p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock")


@pytest.mark.parametrize("subfolder", ["", "plain_text"])
@pytest.mark.parametrize("parts", [1, 3])
def test_pixels_come_back(tmp_path, data, seven_rows, monkeypatch, subfolder, parts):
    pixels, labels = data
    folder = tmp_path / "other"
    for k, rows in enumerate(np.array_split(np.arange(40), parts)):
        name = f"train-{k:05}-of-{parts:05}.parquet"
        write(folder / subfolder / name, pixels[rows], labels[rows])
    write(folder / subfolder / "test-00000-of-00001.parquet", pixels[:1] // 2, labels[:1])
    monkeypatch.setenv("MARKOVSCORE_CIFAR10", str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_cifar10("train")
    assert np.array_equal(found.pixels.numpy(), pixels.reshape(40, 3072))
    assert np.array_equal(found.labels.numpy(), labels)
    assert (found.shape, found.levels, found.split) == ((3, 32, 32), 256, "train")
    assert found.take(40).checksum == found.checksum
    (test,) = load_cifar10("test").pixels
    assert np.array_equal(test.numpy(), pixels[0].ravel() // 2)


def test_the_second_call_decodes_nothing(tmp_path, data, monkeypatch):
    first = load_cifar10("train")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    second = load_cifar10("train")
    assert torch.equal(first.pixels, second.pixels) and first.checksum == second.checksum
    (cache,) = caches(tmp_path)
    stored = np.load(cache / "pixels.npy")
    second.pixels[0] = 0  # the mapping is private: nobody else sees it
    assert np.array_equal(np.load(cache / "pixels.npy"), stored)


@pytest.mark.parametrize(
    ("pixels", "labels"), [(slice(None, None, -1), 0), (slice(None), 1)], ids=["pixels", "labels"]
)
def test_other_files_have_another_cache_and_checksum(tmp_path, data, path, pixels, labels):
    before = load_cifar10("train").checksum
    write(path, data[0][pixels], (data[1] + labels) % 10)
    assert load_cifar10("train").checksum != before
    assert len(caches(tmp_path)) == 2


def test_an_interrupted_decoding_leaves_nothing(tmp_path, data, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_cifar10("train")
    assert caches(tmp_path) == []
    (tmp_path / "cache").mkdir(exist_ok=True)
    found = load_cifar10("train")
    (cache,) = caches(tmp_path)
    # what a process that was killed leaves is removed by the next one
    cache.rename(cache.with_suffix(".partial"))
    (cache.with_suffix(".partial") / "pixels.npy").write_bytes(b"half")
    assert load_cifar10("train").checksum == found.checksum
    assert caches(tmp_path) == [cache]


FILES = ("pixels.npy", "labels.npy", "about.json")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        *((n, lambda c: c[:-8] + bytes([c[-8] ^ 1]) + c[-7:], "the checksum") for n in FILES[:2]),
        *((n, lambda c: c[: len(c) // 2], "") for n in FILES),
        ("about.json", lambda c: c.replace(b'"format": 1', b'"format": 0'), "format 1, found 0"),
    ],
)
def test_a_damaged_cache_says_how_to_rebuild(tmp_path, data, name, change, words):
    load_cifar10("train")
    (cache,) = caches(tmp_path)
    (cache / name).write_bytes(change((cache / name).read_bytes()))
    refused(rf"cache: expected {words}.*delete the folder {cache}", load_cifar10, "train")


def test_a_cache_that_cannot_be_written(tmp_path, data, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MARKOVSCORE_CACHE", str(tmp_path / "file" / "cache"))
    refused("set MARKOVSCORE_CACHE to another", load_cifar10, "train", error=PermissionError)


@pytest.mark.parametrize("keep", [0, 4, 5000, -9])
def test_a_truncated_file(tmp_path, path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    refused(rf"{path}: expected a whole Parquet file", load_cifar10, "train")
    assert not (tmp_path / "cache").exists() or caches(tmp_path) == []


def test_a_page_with_a_wrong_checksum(path, data):
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    write(path, *data, **options)
    load_cifar10("train")
    content = bytearray(path.read_bytes())
    content[60_000] ^= 1  # inside the pixels of some picture
    path.write_bytes(content)
    refused(r"whole Parquet file.*copy the file again", load_cifar10, "train")


def test_a_listed_checksum_is_obeyed(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    listing = path.with_name("SHA256SUMS")
    listing.write_text(f"{'0' * 64}  test-00000-of-00001.parquet\n{digest} *{path.name}\n")
    load_cifar10("train")
    listing.write_text(f"{'0' * 64}  {path.name}\n")
    refused(f"expected the SHA-256 0000.*found {digest}", load_cifar10, "train")


@pytest.mark.parametrize(
    "columns",
    [
        {"image": [b""], "label": [1]},
        {"img": [b""], "label": [1]},
        {"img": [{"path": "a"}], "label": [1]},
        {"img": [{"bytes": b"", "path": "a"}], "fine_label": [1]},
        {"img": [{"bytes": b"", "path": "a"}], "label": ["cat"]},
    ],
)
def test_other_columns(path, columns):
    pq.write_table(pa.table(columns), path)
    refused(r"expected the columns img: struct.*found", load_cifar10, "train")


def test_labels_and_images_must_be_there(path, data):
    pixels, labels = data
    for wrong in (10, -1, None):
        write(path, pixels, [*labels[:-1], wrong])
        refused(rf"row 39: .*label in 0..9, found .*{wrong}", load_cifar10, "train")
    write(path, pixels, labels, encoded=[encode(pixels[0])] * 39 + [None])
    refused("row 39: expected an image", load_cifar10, "train")
    write(path, [], [])
    refused("expected images, found none", load_cifar10, "train")


BLACK = np.zeros((3, 32, 32), np.uint8)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (encode(BLACK[:, :28]), "32 x 32 pixels, found RGB of 32 x 28"),
        (encode(BLACK[:1]), "RGB image .*found L of 32 x 32"),
        (encode(BLACK, "GIF"), "PNG or JPEG"),
        (encode(BLACK)[:60], "PNG or JPEG"),
        (b"", "PNG or JPEG file, found 0 bytes"),
    ],
    ids=["size", "grey", "GIF", "truncated", "empty"],
)
def test_other_images(tmp_path, path, data, seven_rows, picture, words):
    encoded = [encode(p) for p in data[0]]
    encoded[33] = picture
    write(path, *data, encoded)
    refused(f"row 33: expected .*{words}", load_cifar10, "train")
    assert caches(tmp_path) == []


def test_folders_and_files_that_are_not_there(tmp_path, path, monkeypatch):
    def missing(words, split="train"):
        refused(words, load_cifar10, split, error=FileNotFoundError)

    missing(r"expected test-\*.parquet in .*found train-00000", "test")
    path.rename(path.with_name("train-00000-of-00002.parquet"))
    missing("expected 2 files .*found 1: copy all parts")
    for folder, words in ((tmp_path / "no", "nothing at"), (Path(__file__), "the file")):
        monkeypatch.setenv("MARKOVSCORE_CIFAR10", str(folder))
        missing(f"expected a folder, found {words}")


@pytest.mark.parametrize(
    ("module", "words"),
    [("pyarrow", "pyarrow"), ("PIL", "pillow"), ("datasets", "MARKOVSCORE_CIFAR10 .*datasets")],
)
def test_missing_libraries(data, monkeypatch, module, words):
    if module == "datasets":
        monkeypatch.delenv("MARKOVSCORE_CIFAR10")
    monkeypatch.setitem(sys.modules, module, None)
    fix = rf"{words}.*pip install 'markovscore\[images\]'"
    refused(fix, load_cifar10, "train", error=ImportError)


def test_the_library_datasets(tmp_path, data, path, seven_rows, monkeypatch):
    """`load_dataset` of the hub is replaced by one of the file here; the rest is the library."""
    import datasets

    monkeypatch.delenv("MARKOVSCORE_CIFAR10")
    real = datasets.load_dataset

    def load_dataset(name, split):
        assert (name, split) == ("uoft-cs/cifar10", "train")
        cache = str(tmp_path / "hub")
        loaded = real("parquet", data_files=str(path), split="train", cache_dir=cache)
        return loaded.cast_column("img", datasets.Image())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load_cifar10("train")
    assert np.array_equal(found.pixels.numpy(), data[0].reshape(40, 3072))
    assert np.array_equal(found.labels.numpy(), data[1])


def test_offline_with_no_data(tmp_path):
    """In a process of its own: the library reads these variables when it is imported."""
    code = "from markovscore.datasets import load_cifar10; load_cifar10('train')"
    environment = {k: v for k, v in os.environ.items() if k != "MARKOVSCORE_CIFAR10"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("FileNotFoundError: CIFAR-10: expected MARKOVSCORE_CIFAR10"), done.stderr
    assert "train-*.parquet" in last and "library `datasets`" in last


def test_two_at_once_decode_once(data, monkeypatch):
    """One decodes; the other waits for it at the lock, which is the file's, and reads the same."""
    real, decoded = Image.open, []

    def slow(*arguments, **settings):
        decoded.append(arguments)
        time.sleep(0.01)
        return real(*arguments, **settings)

    monkeypatch.setattr(Image, "open", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(load_cifar10, ["train", "train"])
    assert first.checksum == second.checksum
    assert len(decoded) == 40


@pytest.mark.skipif(not REAL, reason="MARKOVSCORE_CIFAR10 is not set")
def test_the_real_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKOVSCORE_CACHE", str(tmp_path))
    train, test = load_cifar10("train"), load_cifar10("test")
    assert (len(train), len(test)) == (50_000, 10_000)
    for split in (train, test):
        assert torch.bincount(split.labels).tolist() == [len(split) // 10] * 10
        x = split.dequantised(rng(), 1000).double()
        # known means of the channels, as fractions
        gap = ((x.reshape(1000, 3, -1) + 1) / 2).mean((0, 2)) - torch.tensor([0.491, 0.482, 0.447])
        assert gap.abs().max() < 6 * 0.13 / math.sqrt(1000)
    assert train.checksum != test.checksum
