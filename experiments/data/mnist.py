"""MNIST as numpy arrays, with the validation part cut from the training set."""

import functools
from typing import NamedTuple

import numpy as np

from experiments.data import download, files, idx, stand_in

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = tuple(name for pair in FILES.values() for name in pair)
COUNTS = {"train": 60_000, "test": 10_000}
VALID_COUNT = 5_000
# MD5 of the uncompressed files, as published.
DIGESTS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)


class Split(NamedTuple):
    """images (items, 28, 28) uint8 and labels (items,) uint8 below 10."""

    images: np.ndarray
    labels: np.ndarray


class Mnist(NamedTuple):
    """The three parts: 55,000 train, 5,000 valid, 10,000 test digits."""

    train: Split
    valid: Split
    test: Split


def load(data_dir=None, allow_other=False):
    """Returns MNIST: from local IDX files, else downloaded once and kept.

    Train is the first 55,000 training images, valid the last 5,000, test the
    10,000 test images, in the order of the files. Local files are
    `<data_dir>/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`, the plain
    one first where both lie there. Where none of the four does, a
    tensorflow-datasets builder downloads them, under TFDS_DATA_DIR or
    ~/tensorflow_datasets.

    Args:
      data_dir: data folder; None stands for the environment variable SVDRNN_DATA,
        "stand-in" for the few random digits of `stand_in`.
      allow_other: whether files with other digests are taken, so that a set of one's
        own in the same format and size can be used.

    Returns:
      An `Mnist` of uint8 arrays, which may be read-only.

    Raises:
      ValueError: a file is damaged, cut, too long, of another format or count,
        holds a label above 9, or has another digest; the text names the file.
      FileNotFoundError: some of the four files are missing, or all are and the
        download failed; the text says what to put where.
    """
    if data_dir == stand_in.NAME:
        parts = stand_in.digits()
        return Mnist(**{part: Split(*arrays) for part, arrays in parts.items()})
    remote = functools.partial(_from_builder, digests=DIGESTS)
    digests = None if allow_other else DIGESTS
    return _load(data_dir, COUNTS, VALID_COUNT, remote, digests)


def _load(data_dir, counts, valid_count, remote, digests=None):
    folder = files.local_folder(data_dir, "mnist", NAMES)
    if folder is not None:
        parts = read_folder(folder, counts, digests)
    else:
        parts = files.remote_or_explain(remote, data_dir, "mnist", NAMES)
    images, labels = parts["train"]
    return Mnist(
        train=Split(images[:-valid_count], labels[:-valid_count]),
        valid=Split(images[-valid_count:], labels[-valid_count:]),
        test=Split(*parts["test"]),
    )


def read_folder(folder, counts=COUNTS, digests=None):
    """Returns {"train" | "test": (images, labels)} from a folder of IDX files.

    Where `digests` are given, {name: MD5}, they are checked.

    Raises:
      ValueError: see `load`.
    """
    parts = {}
    for part, names in FILES.items():
        image_path, label_path = (files.find(folder, name) for name in names)
        images = idx.read(image_path, (28, 28))
        labels = idx.read(label_path, ())
        _check(images, labels, counts[part], image_path, label_path)
        for name, values, path in zip(
            names, (images, labels), (image_path, label_path), strict=True
        ):
            if digests is not None:
                data = idx.content(values)
                files.check_md5(data, digests[name], path, files.OTHER)
        parts[part] = images, labels
    return parts


def download_parts(mirrors=MIRRORS, digests=DIGESTS, counts=COUNTS):
    """Returns {"train" | "test": (images, labels)} from the first good mirror.

    Raises:
      OSError: no mirror delivered a file with the right digest.
      ValueError: the content is not the expected IDX data.
    """
    parts = {}
    for part, (image_name, label_name) in FILES.items():
        image_data, label_data = (
            download.fetch(f"{name}.gz", mirrors, digests[name])
            for name in (image_name, label_name)
        )
        images = idx.parse(image_data, (28, 28), image_name)
        labels = idx.parse(label_data, (), label_name)
        _check(images, labels, counts[part], image_name, label_name)
        parts[part] = images, labels
    return parts


def _from_builder(read=download_parts, counts=COUNTS, tfds_dir=None, digests=None):
    from experiments.data import builders  # slow to import, rarely needed

    parts, folder = builders.mnist_parts(read, tfds_dir)
    for part in FILES:
        where = f"{part} part of {folder}"
        with builders.undamaged(folder):
            images, labels = parts[part]
            _check(images, labels, counts[part], where, where)
            for name, values in zip(FILES[part], (images, labels), strict=True):
                if digests is not None:
                    files.check_md5(idx.content(values), digests[name], where)
    return parts


def _check(images, labels, count, image_name, label_name):
    for what, values, name in (
        ("images", images, image_name),
        ("labels", labels, label_name),
    ):
        if len(values) != count:
            raise ValueError(f"{name}: {len(values)} {what}, expected {count}")
    if labels.max() > 9:
        place = int(labels.argmax())
        raise ValueError(
            f"{label_name}: label {labels[place]} at place {place}, allowed are 0 to 9"
        )
