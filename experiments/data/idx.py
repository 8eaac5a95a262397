"""The IDX format of MNIST: a header of big-endian sizes, then unsigned bytes."""

import math
import struct

import numpy as np

from experiments.data import files

UNSIGNED_BYTE = 0x08


def parse(data, item_shape, name):
    """Reads an IDX file of unsigned bytes.

    Layout: magic number `0x0800 + rank`, one 32-bit size an axis, the values in
    C order. Source: http://yann.lecun.com/exdb/mnist.

    Args:
      data: the file's uncompressed bytes.
      item_shape: shape of one item: (28, 28) for images, () for labels.
      name: file name, for error messages.

    Returns:
      A read-only uint8 array of shape (items, *item_shape).

    Raises:
      ValueError: wrong magic number, wrong item shape, cut file or trailing
        bytes; the text names the file, what was found and what was expected.
    """
    rank = 1 + len(item_shape)
    header = struct.Struct(f">{1 + rank}I")
    magic = struct.unpack_from(">I", data)[0] if len(data) >= 4 else None
    expected = UNSIGNED_BYTE << 8 | rank
    if magic not in (None, expected):
        raise ValueError(f"{name}: magic number {magic}, expected {expected}")
    if len(data) < header.size:
        raise ValueError(
            f"{name}: cut file: {len(data)} bytes, the header alone has {header.size}"
        )
    _, count, *sizes = header.unpack_from(data)
    if tuple(sizes) != tuple(item_shape):
        raise ValueError(
            f"{name}: items of shape {tuple(sizes)}, expected {tuple(item_shape)}"
        )
    _check_length(data, header.size + count * math.prod(sizes), name)
    values = np.frombuffer(data, np.uint8, offset=header.size)
    return values.reshape(count, *sizes)


def _check_length(data, expected, name):
    if len(data) != expected:
        what = "cut file" if len(data) < expected else "trailing bytes"
        raise ValueError(
            f"{name}: {what}: {len(data)} bytes, the header says {expected}"
        )


def content(values):
    """Returns the bytes of the file that holds `values`, the opposite of `parse`."""
    sizes = (UNSIGNED_BYTE << 8 | values.ndim, *values.shape)
    return struct.pack(f">{len(sizes)}I", *sizes) + values.tobytes()


def read(path, item_shape):
    """Reads an IDX file, plain or ".gz"; see `parse`.

    Raises:
      ValueError: as `parse`, and for damaged gzip data.
      OSError: the file cannot be read.
    """
    return parse(files.read_bytes(path), item_shape, path)
