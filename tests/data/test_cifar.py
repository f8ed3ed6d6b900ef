import builtins
import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from sparsetrain.data import DataError, load
from sparsetrain.data.plain_pickle import plain_pickle

EACH = 4  # images in a file
FILES = {  # name -> (folder, training files, test file) of the two layouts
    ("cifar10", "binary"): (
        "cifar-10-batches-bin",
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        "test_batch.bin",
    ),
    ("cifar10", "python"): (
        "cifar-10-batches-py",
        [f"data_batch_{i}" for i in range(1, 6)],
        "test_batch",
    ),
    ("cifar100", "binary"): ("cifar-100-binary", ["train.bin"], "test.bin"),
    ("cifar100", "python"): ("cifar-100-python", ["train"], "test"),
}


def records(seed: int, classes: int) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (EACH, 3072), dtype=np.uint8)
    return data, [int(label) for label in rng.integers(0, classes, EACH)]


def write(path, layout, name, data, labels):
    if layout == "binary":
        coarse = [np.zeros((EACH, 1), np.uint8)] if name == "cifar100" else []
        fine = np.array(labels, np.uint8)[:, None]
        path.write_bytes(np.hstack([*coarse, fine, data]).tobytes())
    else:
        key = "labels" if name == "cifar10" else "fine_labels"
        path.write_bytes(pickle.dumps({"data": data, key: labels}, protocol=2))


@pytest.fixture(params=FILES, ids="-".join)
def published(request, tmp_path):
    """A small copy of each publication: (name, its folder, its training and test images)."""
    name, layout = request.param
    inner, train, test = FILES[request.param]
    (tmp_path / inner).mkdir()
    content = []
    for i, file in enumerate([*train, test]):
        content.append(records(i, 10 if name == "cifar10" else 100))
        write(tmp_path / inner / file, layout, name, *content[-1])
    return name, tmp_path / inner, content


@pytest.fixture
def batch(tmp_path):
    """Where a CIFAR-10 pickle goes that a test writes; the other files are in order."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in [*FILES["cifar10", "python"][1], "test_batch"]:
        write(folder / file, "python", "cifar10", *records(0, 10))
    return folder / "data_batch_3"


def check(images, content):
    *train, test = content
    for split, parts in ((images.train, train), (images.test, [test])):
        pixels = torch.from_numpy(np.concatenate([data for data, _ in parts]))
        labels = [label for _, part in parts for label in part]
        [(x, y)] = split.batches(len(pixels), train=False)
        assert y.tolist() == labels
        shown = x * images.std[:, None, None] + images.mean[:, None, None]
        wanted = pixels.view(-1, 3, 32, 32) / 255
        torch.testing.assert_close(shown, wanted, atol=1e-6, rtol=0)


def test_reads_what_was_written(published):
    name, folder, content = published
    check(load(name, folder), content)  # the folder itself
    check(load(name, str(folder.parent)), content)  # the folder around it


def test_describes_itself(published):
    name, folder, content = published
    images = load(name, folder)
    assert (images.name, images.shape) == (name, (3, 32, 32))
    assert len(images.classes) == {"cifar10": 10, "cifar100": 100}[name]
    assert images.classes[0] == {"cifar10": "airplane", "cifar100": "apple"}[name]
    assert f"{EACH * (len(content) - 1)} training and {EACH} test images; 50,000" in images.note


def test_class_names_from_the_copy(published):
    name, folder, _ = published
    classes = [f"kind{i}" for i in range(10 if name == "cifar10" else 100)]
    meta = {"cifar10": "batches.meta", "cifar100": "meta"}[name]
    key = {"cifar10": b"label_names", "cifar100": b"fine_label_names"}[name]
    for form in (list, lambda names: [x.encode() for x in names]):
        (folder / meta).write_bytes(pickle.dumps({key: form(classes)}, protocol=2))
        for file in ("batches.meta.txt", "fine_label_names.txt"):
            (folder / file).write_text("\n".join(classes) + "\n\n")
        assert load(name, folder).classes == tuple(classes)


def test_wrong_number_of_class_names(batch):
    (batch.parent / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}, protocol=2))
    with pytest.raises(DataError, match=r"batches\.meta: needs 10 class names, got 1"):
        load("cifar10", batch.parent)


def test_missing_file(published):
    name, folder, _ = published
    last = sorted(folder.iterdir())[-1]
    last.unlink()
    with pytest.raises(DataError, match=f"{last.name}: no such file"):
        load(name, folder)


def test_truncated_file(published):
    name, folder, _ = published
    first = sorted(folder.iterdir())[0]
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{first.name}: (needs records of|damaged pickle)"):
        load(name, folder)


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match=r"needs cifar-10-batches-bin/ .*, found neither"):
        load("cifar10", tmp_path)


def test_binary_label_out_of_range(tmp_path):
    for file in [*FILES["cifar10", "binary"][1], "test_batch.bin"]:
        write(tmp_path / file, "binary", "cifar10", *records(0, 10))
    (tmp_path / "data_batch_2.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match=r"data_batch_2.bin: needs labels 0 to 9, got 10"):
        load("cifar10", tmp_path)


def test_keys_and_bytes_of_python_2(batch):
    data, labels = records(7, 10)
    batch.write_bytes(python2_pickle(data, labels))
    _, y = load("cifar10", batch.parent).train.sample(5 * EACH)
    images = load("cifar10", batch.parent)
    assert y.shape == (5 * EACH,)
    assert images.train.labels[2 * EACH : 3 * EACH].tolist() == labels
    wanted = torch.from_numpy(data).view(-1, 3, 32, 32)
    [(x, _)] = list(images.train.batches(EACH, train=False))[2:3]
    shown = (x * images.std[:, None, None] + images.mean[:, None, None]) * 255
    assert torch.equal(shown.round().byte(), wanted)


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """{'data': data, 'labels': labels} as Python 2 wrote it: its str are byte strings."""

    def string(text: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(text)) + text

    def number(n: int) -> bytes:
        return b"J" + struct.pack("<i", n)

    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + string(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
    array = empty + string(b"b") + b"\x87R"
    shape = b"(" + number(data.shape[0]) + number(data.shape[1]) + b"t"
    array += b"(K\x01" + shape + dtype + b"\x89" + string(data.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    pairs = string(b"data") + array + string(b"labels") + listed
    return b"\x80\x02}(" + pairs + b"u."


def test_fortran_order(batch):
    data, labels = records(7, 10)
    write(batch, "python", "cifar10", np.asfortranarray(data), labels)
    assert torch.equal(
        load("cifar10", batch.parent).train.source.pixels[2 * EACH : 3 * EACH],
        torch.from_numpy(data).view(-1, 3, 32, 32),
    )


class Calls:
    """Pickled as a call of function(*arguments)."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def objects(item) -> np.ndarray:
    array = np.empty((1, 3072), dtype=object)
    array[:] = 0
    array[0, 0] = item
    return array


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["top", "data", "label", "nested in an array"])
@pytest.mark.parametrize("function", ["system", "eval", "exec"])
def test_calls_are_refused_and_not_made(batch, function, place, protocol):
    made = batch.parent / "made"
    if function == "system":
        call = Calls(os.system, f"touch {made}")
    else:
        call = Calls(getattr(builtins, function), f"open({str(made)!r}, 'w')")
    content = {
        "top": call,
        "data": {"data": call, "labels": [0]},
        "label": {"data": np.zeros((1, 3072), np.uint8), "labels": [call]},
        "nested in an array": {"data": objects(call), "labels": [0]},
    }[place]
    batch.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(DataError, match=rf"data_batch_3: refused.* asks for \w+\.{function};"):
        load("cifar10", batch.parent)
    assert not made.exists()


@pytest.mark.parametrize(
    "name",
    ["numpy\nload", "numpy\nfromfile", "numpy\nndarray.tofile", "builtins\ngetattr", "os\nsystem"],
)
def test_other_names_are_refused(batch, name):
    batch.write_bytes(f"c{name}\n.".encode())
    with pytest.raises(
        DataError, match="refused, the pickle asks for " + name.replace("\n", r"\.")
    ):
        plain_pickle(batch)


@pytest.mark.parametrize(
    "program",
    [
        b"cnumpy\nndarray\n(K\x01tR.",  # calls a name that is only for naming
        b"cnumpy\ndtype\n}(X\x04\x00\x00\x00codeK\x01ub.",  # sets attributes of a stand-in
        b"cnumpy\ndtype\nN}(X\x08\x00\x00\x00__call__K\x01u\x86b.",  # the same through slots
        b"cnumpy\ndtype\n)\x81.",  # makes one afresh
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        b"Pid\n.",  # a persistent id
        b"\x82\x01.",  # an extension code
        b"",
        b"not a pickle",
    ],
)
def test_abuse_of_what_is_allowed_is_an_error(batch, program):
    batch.write_bytes(program)
    with pytest.raises(DataError, match="data_batch_3: damaged pickle"):
        plain_pickle(batch)


def doubled(depth: int, end: bytes) -> bytes:
    """A pair of a pair of ... of one object: in memory tiny, 2^depth entries for who walks it."""
    pair = b"(h\x00h\x00tq\x00"
    return b"\x80\x02)q\x00" + pair * depth + end + b"."


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x04B\xff\xff\xff\xff.", "expected 4294967295 bytes"),
        (b"\x80\x05\x8e" + struct.pack("<Q", 2**32) + b".", "expected 4294967296 bytes"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**32) + b".", "expected 4294967296 bytes"),
        (b"\x8b" + struct.pack("<i", 2**31 - 1) + b".", "not enough data"),
        (b"T" + struct.pack("<i", -5) + b".", r"damaged pickle \("),
        (b"]" * 2_000_001 + b".", "more than 2,000,000 instructions"),
        (b"Nr\xff\xff\xff\xff0.", r"damaged pickle \("),  # a memo of 2^32 places
        (doubled(60, b"}h\x00K\x01s"), "a key is neither text nor a number"),
        (b"h\x05.", "gets what was not put"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged pickle"),
        (b"e.", "damaged pickle"),
        (b"(e.", "damaged pickle"),
        (b"]", "it has no end"),
        (b"\x8f.", "EMPTY_SET is not for plain data"),
    ],
)
def test_what_asks_for_memory_or_time_is_an_error(batch, program, message):
    batch.write_bytes(program)
    with pytest.raises(DataError, match=message) as caught:
        load("cifar10", batch.parent)
    assert len(str(caught.value)) < 300


HUGE = b"cnumpy.core.multiarray\n_reconstruct\n(tR"  # and what is set of the array


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"(Nh\x00Nh\x00Nt", r"needs an array of uint8 \(u1\), got NoneType"),
        (b"(Nh\x00cnumpy\ndtype\n(h\x00tRNNt", r"needs an array of uint8 \(u1\), got tuple"),
        (b"(N(" + b"\x8a\xff" + b"\x7f" * 255 + b"tcnumpy\ndtype\n(U\x02u1tRNNt", "array's shape"),
        (b"(Nh\x00cnumpy\ndtype\n(U\x02u1tRNNt", "needs an array's shape, got tuple"),
        (b"(N)cnumpy\ndtype\n(U\x02u1tRNh\x00t", "needs its bytes, got tuple"),
        (b"K\x01", "sets a state of what has none"),
    ],
)
def test_nothing_unchecked_is_shown_or_multiplied(batch, state, message):
    batch.write_bytes(doubled(60, b"(U\x04data" + HUGE + state + b"bU\x06labels]d"))
    with pytest.raises(DataError, match=message) as caught:
        load("cifar10", batch.parent)
    assert len(str(caught.value)) < 300


def test_class_names_are_text(batch):
    (batch.parent / "batches.meta").write_bytes(doubled(60, b"(U\x0blabel_names](h\x00ed"))
    with pytest.raises(DataError, match="batches.meta: needs class names as text"):
        load("cifar10", batch.parent)


def test_one_text_that_becomes_bytes_again_and_again(batch, monkeypatch):
    monkeypatch.setattr("sparsetrain.data.plain_pickle.LARGEST", 5000)
    text = b"X" + struct.pack("<i", 999) + b"a" * 999
    once = b"h\x01h\x00\x8c\x06latin1\x86R0"
    start = text + b"q\x00c_codecs\nencode\nq\x01"
    batch.write_bytes(start + 5 * once + b".")
    assert plain_pickle(batch).meaning == "bytes"
    batch.write_bytes(start + 6 * once + b".")
    with pytest.raises(DataError, match="more than 5,000 bytes"):
        plain_pickle(batch)


@pytest.mark.parametrize("name", ["data_batch_3", "data_batch_3.bin"])
def test_a_file_that_is_none(batch, name):
    if name.endswith(".bin"):
        for file in [*FILES["cifar10", "binary"][1], "test_batch.bin"]:
            write(batch.parent / file, "binary", "cifar10", *records(0, 10))
        for path in batch.parent.glob("*"):
            if not path.suffix:
                path.unlink()
    path = batch.parent / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(it is a pipe or a device\)"):
        load("cifar10", batch.parent)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(40 * 2**30)  # zeros that take no place
    with pytest.raises(DataError, match="it has 42949672960 bytes"):
        load("cifar10", batch.parent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "needs a dict with 'data'"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "needs a dict with 'labels'"),
        ({"data": b"", "labels": []}, "needs data as an array, got bytes"),
        ({"data": np.zeros((2, 3072), np.int64), "labels": [0, 0]}, r"uint8 \(u1\), got 'i8'"),
        ({"data": objects(1), "labels": [0]}, r"uint8 \(u1\), got 'O8'"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 0]}, r"got \(2, 3071\)"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"got \(0, 3072\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "needs 2 labels, .* got 1"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [0.5]}, "whole numbers, got float"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": 3}, "labels as a list, got int"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "labels 0 to 9, got 10"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}, "labels 0 to 9, got -1"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [1 << 70]}, "do not fit 64 bits"),
    ],
)
def test_wrong_content(batch, content, message):
    batch.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(DataError, match=f"data_batch_3: .*{message}"):
        load("cifar10", batch.parent)


def test_an_array_that_lies_about_its_shape(batch):
    stream = io.BytesIO()
    pickle.dump({"data": np.zeros((1, 3072), np.uint8), "labels": [0]}, stream, protocol=2)
    shape = b"K\x01M\x00\x0c"  # 1, 3072
    assert stream.getvalue().count(shape) == 1
    batch.write_bytes(stream.getvalue().replace(shape, b"K\x02M\x00\x0c"))
    with pytest.raises(DataError, match=r"shape \(2, 3072\) needs its bytes, got 3072 bytes"):
        load("cifar10", batch.parent)
