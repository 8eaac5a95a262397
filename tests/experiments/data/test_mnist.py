"""MNIST: IDX files, splits, download and the tensorflow-datasets builder."""

import functools
import gzip
import hashlib
import http.server
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

from experiments.data import download, files, idx, mnist

ROOT = pathlib.Path(__file__).resolve().parents[3]
COUNTS = {"train": 12, "test": 5}


def idx_bytes(array):
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def synthetic(counts=COUNTS):
    """Returns the four files' contents; image i of a part has pixel (0, 0) = i."""
    rng = np.random.default_rng(0)
    contents = {}
    for part, (image_name, label_name) in mnist.FILES.items():
        images = rng.integers(0, 256, (counts[part], 28, 28), np.uint8)
        images[:, 0, 0] = np.arange(counts[part])
        contents[image_name] = idx_bytes(images)
        contents[label_name] = idx_bytes(np.arange(counts[part]) % 10)
    return contents


def write(folder, contents, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


def unreachable():
    raise AssertionError("must not be called")


def load_small(data_dir, remote=unreachable, counts=COUNTS):
    return mnist._load(data_dir, counts, 4, remote)


@pytest.fixture
def real_dir():
    root = files.data_root(None)
    if root is None or files.find(root / "mnist", mnist.NAMES[0]) is None:
        pytest.skip("needs the real MNIST files: set SVDRNN_DATA")
    return root


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serves tmp_path/web on this machine and gives its address."""
    monkeypatch.setenv("no_proxy", "*")
    web = tmp_path / "web"
    web.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=web)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield web, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 28, 28), (0, 28, 28)])
def test_idx_gives_back_what_was_written(tmp_path, shape, zipped):
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    write(tmp_path, {"file": idx_bytes(array)}, zipped)
    values = idx.read(files.find(tmp_path, "file"), shape[1:])
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, array, strict=True)


IMAGES = idx_bytes(np.zeros((3, 28, 28)))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "cut file: 0 bytes, the header alone has 16"),
        (IMAGES[:10], "cut file: 10 bytes, the header alone has 16"),
        (IMAGES[:-1], "cut file: 2367 bytes, the header says 2368"),
        (IMAGES + b"\0", "trailing bytes: 2369 bytes, the header says 2368"),
        (idx_bytes(np.zeros(3)), "magic number 2049, expected 2051"),
        (b"\0\0\x0d\3" + IMAGES[4:], "magic number 3331, expected 2051"),
        (
            idx_bytes(np.zeros((3, 28, 27))),
            r"items of shape \(28, 27\), expected \(28, 28\)",
        ),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_file_is_named(tmp_path, data, message, zipped):
    write(tmp_path, {"digits": data}, zipped)
    with pytest.raises(ValueError, match=f"digits.*: {message}"):
        idx.read(files.find(tmp_path, "digits"), (28, 28))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: b"not gzip" + data,
        lambda data: data[:30] + bytes([data[30] ^ 255]) + data[31:],
        lambda data: data[:-5] + bytes([data[-5] ^ 255]) + data[-4:],
        lambda data: data + b"more",
        lambda data: b"",
    ],
)
def test_damaged_gzip_is_named(tmp_path, damage):
    rng = np.random.default_rng(0)
    data = gzip.compress(idx_bytes(rng.integers(0, 256, (3, 28, 28))))
    path = tmp_path / "digits.gz"
    path.write_bytes(damage(data))
    # An empty gzip file is no error of gzip's own, but it has no IDX header.
    with pytest.raises(ValueError, match="digits.gz: (damaged gzip data|cut file)"):
        idx.read(path, (28, 28))


@pytest.mark.parametrize("zipped", [False, True])
def test_splits_keep_the_order_of_the_files(tmp_path, zipped):
    write(tmp_path / "mnist", synthetic(), zipped)
    digits = load_small(tmp_path)
    for split, places in (
        (digits.train, range(8)),
        (digits.valid, range(8, 12)),
        (digits.test, range(5)),
    ):
        assert split.images.dtype == split.labels.dtype == np.uint8
        assert split.images.shape == (len(places), 28, 28)
        np.testing.assert_array_equal(split.images[:, 0, 0], places)
        np.testing.assert_array_equal(split.labels, np.array(places) % 10)


def test_folder_from_the_environment(tmp_path, monkeypatch):
    write(tmp_path / "mnist", synthetic())
    monkeypatch.setenv("SVDRNN_DATA", str(tmp_path))
    assert len(load_small(None).train.labels) == 8


@pytest.mark.parametrize("name", mnist.NAMES)
def test_wrong_count_names_the_file(tmp_path, name):
    contents = synthetic()
    contents[name] = synthetic({"train": 11, "test": 11})[name]
    write(tmp_path / "mnist", contents)
    with pytest.raises(ValueError, match=f"{name}.gz: 11 .*, expected (12|5)"):
        load_small(tmp_path)


def test_load_demands_the_whole_set(tmp_path):
    write(tmp_path / "mnist", synthetic())
    with pytest.raises(ValueError, match="train-images.*12 images, expected 60000"):
        mnist.load(tmp_path)


def test_label_above_nine(tmp_path):
    contents = synthetic()
    contents["t10k-labels-idx1-ubyte"] = idx_bytes(np.array([0, 1, 10, 3, 4]))
    write(tmp_path / "mnist", contents)
    with pytest.raises(ValueError, match="t10k-labels.*label 10 at place 2"):
        load_small(tmp_path)


def test_missing_file_is_named(tmp_path):
    contents = synthetic()
    del contents["train-labels-idx1-ubyte"]
    write(tmp_path / "mnist", contents)
    with pytest.raises(FileNotFoundError, match="lacks train-labels-idx1-ubyte"):
        load_small(tmp_path)


def test_data_dir_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="data_dir: .*file is not a folder"):
        load_small(path)


@pytest.mark.slow
def test_no_files_and_no_network(tmp_path, serve):
    _, address = serve  # serves nothing
    read = functools.partial(mnist.download_parts, mirrors=[address])
    remote = functools.partial(mnist._from_builder, read, COUNTS, tmp_path / "tfds")
    with pytest.raises(FileNotFoundError) as caught:
        load_small(tmp_path, remote)
    for text in (*mnist.NAMES, f"{tmp_path}/mnist", "SVDRNN_DATA", "data_dir", "404"):
        assert text in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_silent_host_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match="no data for 0.2 s|timed out"):
            download.receive(f"http://127.0.0.1:{port}/x", stall_seconds=0.2)


def test_download_takes_the_first_intact_copy(tmp_path, serve):
    web, address = serve
    contents = synthetic()
    digests = {name: hashlib.md5(data).hexdigest() for name, data in contents.items()}
    altered = dict.fromkeys(contents, IMAGES)
    write(web / "altered", altered)
    write(web / "cut", {})
    for name, data in contents.items():
        (web / "cut" / f"{name}.gz").write_bytes(gzip.compress(data)[:-10])
    mirrors = [f"{address}{folder}/" for folder in ("absent", "altered", "cut")]
    with pytest.raises(OSError) as caught:
        mnist.download_parts(mirrors, digests, COUNTS)
    for reason in ("404", "MD5 of the uncompressed content is", "damaged gzip data"):
        assert reason in str(caught.value)
    write(web / "intact", contents)
    parts = mnist.download_parts([*mirrors, f"{address}intact/"], digests, COUNTS)
    write(tmp_path / "mnist", contents)
    assert_same_parts(parts, mnist.read_folder(tmp_path / "mnist", COUNTS))


def assert_same_parts(left, right):
    assert left.keys() == right.keys()
    for part in left:
        for mine, other in zip(left[part], right[part], strict=True):
            np.testing.assert_array_equal(mine, other, strict=True)


def test_builder_from_local_files(tmp_path):
    # Enough images to tell an order by number from an alphabetical one.
    counts = {"train": 300, "test": 40}
    rng = np.random.default_rng(1)
    contents = {}
    for part, (image_name, label_name) in mnist.FILES.items():
        contents[image_name] = idx_bytes(rng.integers(0, 256, (counts[part], 28, 28)))
        contents[label_name] = idx_bytes(rng.integers(0, 10, counts[part]))
    write(tmp_path / "mnist", contents)
    read = functools.partial(mnist.read_folder, tmp_path / "mnist", counts)
    tfds_dir = tmp_path / "tfds"
    built = mnist._from_builder(read, counts, tfds_dir)
    assert_same_parts(built, read())
    kept = mnist._from_builder(unreachable, counts, tfds_dir)
    assert_same_parts(kept, read())

    remote = functools.partial(mnist._from_builder, unreachable, counts, tfds_dir)
    from_builder = load_small(tmp_path / "elsewhere", remote, counts)
    from_files = load_small(tmp_path, counts=counts)
    for mine, other in zip(from_builder, from_files, strict=True):
        np.testing.assert_array_equal(mine.images, other.images)
        np.testing.assert_array_equal(mine.labels, other.labels)
    with pytest.raises(ValueError, match="part of .*mnist_digits.* expected 12"):
        mnist._from_builder(unreachable, COUNTS, tfds_dir)


def test_two_processes_may_build_at_once(tmp_path):
    write(tmp_path / "mnist", synthetic())
    read = functools.partial(mnist.read_folder, tmp_path / "mnist", COUNTS)

    def read_while_another_finishes():
        mnist._from_builder(read, COUNTS, tmp_path / "tfds")
        return read()

    parts = mnist._from_builder(read_while_another_finishes, COUNTS, tmp_path / "tfds")
    assert_same_parts(parts, read())


def digests_of(contents):
    return {name: hashlib.md5(data).hexdigest() for name, data in contents.items()}


def test_other_content_of_the_right_shape_is_refused_by_digest(tmp_path):
    contents = synthetic()
    digests = digests_of(contents)
    write(tmp_path / "mnist", contents)
    whole = mnist._load(tmp_path, COUNTS, 4, unreachable, digests)
    name = mnist.NAMES[0]
    flipped = bytearray(contents[name])
    flipped[500] ^= 1
    write(tmp_path / "mnist", {name: bytes(flipped)})
    with pytest.raises(ValueError) as raised:
        mnist._load(tmp_path, COUNTS, 4, unreachable, digests)
    for text in (f"{tmp_path}/mnist/{name}.gz", digests[name], "allow_other_data"):
        assert text in str(raised.value)
    assert hashlib.md5(bytes(flipped)).hexdigest() in str(raised.value)
    other = mnist._load(tmp_path, COUNTS, 4, unreachable, None)
    assert (other.train.images != whole.train.images).sum() == 1


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "mnist").write_text("")
    with pytest.raises(ValueError, match="/mnist must be a folder, got a file"):
        load_small(tmp_path)


def test_any_damage_to_what_was_kept_names_the_folder(tmp_path):
    contents = synthetic()
    write(tmp_path / "mnist", contents)
    read = functools.partial(mnist.read_folder, tmp_path / "mnist", COUNTS)
    kept = tmp_path / "tfds"
    whole = mnist._from_builder(read, COUNTS, kept)
    again = functools.partial(
        *(mnist._from_builder, unreachable, COUNTS, kept, digests_of(contents))
    )
    refused = 0
    for path in sorted(each for each in kept.rglob("*") if each.is_file()):
        intact = path.read_bytes()
        half = len(intact) // 2
        flipped = intact[:half] + bytes([intact[half] ^ 4]) + intact[half + 1 :]
        for damage in (None, b"", b"{", intact[:half], flipped):
            path.unlink() if damage is None else path.write_bytes(damage)
            try:
                assert_same_parts(again(), whole)  # what nothing is read from
            except files.Damaged as error:
                refused += 1
                assert str(error).startswith(f"{kept}/mnist_digits/1.0.0 is damaged")
                assert "\n" not in str(error)
            path.write_bytes(intact)
    assert refused >= 15


NO_TENSORFLOW = """
import sys
import numpy as np
from experiments.data import mnist
images, labels = np.zeros((5, 28, 28), np.uint8), np.arange(5, dtype=np.uint8)
mnist._load(sys.argv[2], {"train": 12, "test": 5}, 4, remote=None)
assert "tensorflow_datasets" not in sys.modules
from experiments.data import builders
digits, _ = builders.mnist_parts(lambda: {"train": (images, labels)}, sys.argv[1])
assert digits["train"][1].tolist() == [0, 1, 2, 3, 4]
text, _ = builders.ptb_parts(lambda: {"train": b" a b\\n"}, sys.argv[1])
assert text == {"train": b" a b\\n"}
assert "tensorflow" not in sys.modules
"""


def test_builders_never_import_tensorflow(tmp_path):
    fake = tmp_path / "tensorflow"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise AssertionError('tensorflow imported')")
    write(tmp_path / "mnist", synthetic())
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    result = subprocess.run(
        [sys.executable, "-c", NO_TENSORFLOW, str(tmp_path / "tfds"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_real_files(real_dir):
    digits = mnist.load(real_dir)
    assert [len(split.labels) for split in digits] == [55_000, 5_000, 10_000]
    folder = real_dir / "mnist"
    for name, digest in mnist.DIGESTS.items():
        path = files.find(folder, name)
        files.check_md5(files.read_bytes(path), digest, path)
    images, labels = mnist.read_folder(folder)["train"]
    np.testing.assert_array_equal(digits.train.images, images[:55_000])
    np.testing.assert_array_equal(digits.valid.images, images[55_000:])
    np.testing.assert_array_equal(digits.valid.labels, labels[55_000:])


@pytest.mark.slow
def test_builder_cuts_the_same_validation_part_of_the_real_files(tmp_path, real_dir):
    read = functools.partial(mnist.read_folder, real_dir / "mnist")
    remote = functools.partial(mnist._from_builder, read, tfds_dir=tmp_path / "tfds")
    built = mnist._load(tmp_path, mnist.COUNTS, mnist.VALID_COUNT, remote)
    for mine, other in zip(built, mnist.load(real_dir), strict=True):
        np.testing.assert_array_equal(mine.images, other.images, strict=True)
        np.testing.assert_array_equal(mine.labels, other.labels, strict=True)
