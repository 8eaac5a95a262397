"""Standard streams that nobody has to read: a command goes on without a reader. No JAX.

A pipe may be closed (`| head`), a disk full (`> /dev/full`), a terminal gone, a stream
closed from the start (`>&-`): what is written then is lost, and nothing else is.
"""

import io
import os
import sys
from typing import TextIO

from typing_extensions import Buffer, override


class _Unread(io.FileIO):
    """A file descriptor that becomes the null device where it cannot be written."""

    @override
    def write(self, data: Buffer, /) -> int:
        written: int | None = None
        try:
            written = super().write(data)
        except OSError:
            _to_nowhere(self.fileno())
        # None, of a pipe that is full and may not wait, is an error to a buffer.
        return memoryview(data).nbytes if written is None else written


def free() -> None:
    """Makes this process, and those that it starts, write whether or not one reads.

    A closed stream becomes the null device: the next file to be opened would have its
    number, and what C++ libraries print would go into it. Streams that are not the
    process's own, as those of a notebook, are left alone.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = unread(sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = unread(sys.stderr)


def unread(stream: TextIO | None) -> TextIO:
    """The same stream, where nothing fails: nor do letters that it cannot encode."""
    if stream is None:
        return open(os.devnull, "w", errors="backslashreplace")
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # of an unbuffered one, itself
    if type(raw) is not io.FileIO:  # the console of another system
        return stream
    unread = _Unread(raw.fileno(), "w", closefd=False)
    assert isinstance(stream, io.TextIOWrapper)
    return io.TextIOWrapper(
        unread if buffer is raw else io.BufferedWriter(unread),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _to_nowhere(number: int) -> None:
    """Makes a file descriptor the null device."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    os.set_inheritable(number, True)
