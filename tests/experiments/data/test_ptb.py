"""Penn Treebank loading, on texts made up here and on the real files if present."""

import functools
import gzip
import hashlib

import numpy as np
import pytest

from experiments.data import files, ptb

TEXTS = {
    "train": b" b a a <unk> \n c a b \n \n",
    "valid": b" a c \n",
    "test": b" <unk> b \n a \n",
}


def digests(texts):
    return {part: hashlib.md5(text).hexdigest() for part, text in texts.items()}


def write(root, texts, zipped=True):
    folder = root / "ptb"
    folder.mkdir(parents=True)
    for part, text in texts.items():
        if zipped:
            (folder / f"ptb.{part}.txt.gz").write_bytes(gzip.compress(text))
        else:
            (folder / f"ptb.{part}.txt").write_bytes(text)


def unreachable():
    raise AssertionError("must not be called")


def words(root, texts=TEXTS, remote=unreachable):
    return ptb._load_words(root, digests(texts), remote)


def characters(root, texts=TEXTS, remote=unreachable):
    return ptb._load_characters(root, digests(texts), remote)


def spelled(corpus, part, joint=" "):
    return joint.join(corpus.vocabulary[token] for token in getattr(corpus, part))


@pytest.fixture
def real_dir():
    root = files.data_root(None)
    if root is None or files.find(root / "ptb", ptb.NAMES[0]) is None:
        pytest.skip("needs the real PTB files: set SVDRNN_DATA")
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_words(tmp_path, zipped):
    write(tmp_path, TEXTS, zipped)
    corpus = words(tmp_path)
    # a and <eos> three times, b twice, <unk> and c once: ties alphabetically.
    assert corpus.vocabulary == ("<eos>", "a", "b", "<unk>", "c")
    assert corpus.train.tolist() == [2, 1, 1, 3, 0, 4, 1, 2, 0, 0]
    assert corpus.valid.tolist() == [1, 4, 0]
    assert corpus.test.tolist() == [3, 2, 0, 1, 0]
    assert corpus.train.dtype == corpus.valid.dtype == corpus.test.dtype == np.int32


def test_characters(tmp_path):
    write(tmp_path, TEXTS)
    corpus = characters(tmp_path)
    assert spelled(corpus, "train", "") == "b a a <unk> \nc a b \n\n"
    assert spelled(corpus, "valid", "") == "a c \n"
    assert spelled(corpus, "test", "") == "<unk> b \na \n"
    assert corpus.vocabulary == (" ", "\n", "a", "b", *"<>cknu")
    assert corpus.train.dtype == np.int32


def test_only_one_leading_space_is_dropped():
    assert ptb.characters("  a\nb \n c") == " a\nb \nc"


@pytest.mark.parametrize(
    "load, part, token", [(words, "valid", "new"), (characters, "test", "w")]
)
def test_token_unknown_to_the_training_part(tmp_path, load, part, token):
    texts = TEXTS | {part: b" a new b \n" if part == "valid" else b" w \n"}
    write(tmp_path, texts)
    with pytest.raises(ValueError, match=f"ptb.{part}.txt: token '{token}' does not"):
        load(tmp_path, texts)


@pytest.mark.parametrize("part", ptb.PARTS)
@pytest.mark.parametrize(
    "damage", [lambda text: text[:-1], lambda text: text.replace(b"a", b"b", 1)]
)
def test_cut_or_altered_file_is_named(tmp_path, part, damage):
    write(tmp_path, TEXTS | {part: damage(TEXTS[part])})
    for load in (words, characters):
        with pytest.raises(ValueError, match=rf"ptb.{part}.txt.gz: cut or altered"):
            load(tmp_path)


def test_cut_gzip_is_named(tmp_path):
    write(tmp_path, TEXTS)
    path = tmp_path / "ptb" / "ptb.valid.txt.gz"
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(ValueError, match="ptb.valid.txt.gz: damaged gzip data"):
        words(tmp_path)


def test_missing_file_is_named(tmp_path):
    write(tmp_path, TEXTS)
    (tmp_path / "ptb" / "ptb.test.txt.gz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks ptb.test.txt"):
        words(tmp_path)


@pytest.mark.parametrize("load", [ptb.load_words, ptb.load_characters])
def test_public_loaders_check_the_published_digests(tmp_path, load):
    write(tmp_path, TEXTS)
    with pytest.raises(ValueError, match=f"expected {ptb.DIGESTS['train']}"):
        load(tmp_path)


def test_no_files_and_no_network(tmp_path):
    # A file address without a file: a download that fails without any network.
    mirror = (tmp_path / "nowhere").as_uri() + "/"
    read = functools.partial(ptb.download_parts, mirrors=[mirror])
    remote = functools.partial(ptb._from_builder, read, tfds_dir=tmp_path / "tfds")
    with pytest.raises(FileNotFoundError) as caught:
        words(tmp_path, remote=remote)
    for text in (*ptb.NAMES, f"{tmp_path}/ptb", "SVDRNN_DATA", "config.data_dir"):
        assert text in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_builder_gives_the_text_of_the_mirror(tmp_path):
    write(tmp_path / "mirror", TEXTS, zipped=False)
    mirror = (tmp_path / "mirror" / "ptb").as_uri() + "/"
    read = functools.partial(ptb.download_parts, [mirror], digests(TEXTS))
    tfds_dir = tmp_path / "tfds"
    build = functools.partial(ptb._from_builder, digests=digests(TEXTS))
    assert build(read, tfds_dir=tfds_dir) == TEXTS
    kept = functools.partial(build, unreachable, tfds_dir=tfds_dir)
    assert kept() == TEXTS
    for load in (words, characters):
        mine = load(tmp_path, remote=kept)
        other = load(tmp_path / "mirror")
        assert mine.vocabulary == other.vocabulary
        for part in ptb.PARTS:
            np.testing.assert_array_equal(getattr(mine, part), getattr(other, part))
    with pytest.raises(ValueError, match="train part of .*ptb_text.*cut or altered"):
        ptb._from_builder(unreachable, tfds_dir=tfds_dir)


def test_builder_from_local_files(tmp_path):
    write(tmp_path, TEXTS)
    read = functools.partial(ptb.read_folder, tmp_path / "ptb", digests(TEXTS))
    assert ptb._from_builder(read, digests(TEXTS), tmp_path / "tfds") == TEXTS


def test_real_words(real_dir):
    corpus = ptb.load_words(real_dir)
    assert [len(corpus[i]) for i in range(3)] == [929_589, 73_760, 82_430]
    assert len(corpus.vocabulary) == 10_000
    eos = corpus.vocabulary.index(ptb.EOS)
    assert [(corpus[i] == eos).sum() for i in range(3)] == [42_068, 3_370, 3_761]
    counts = np.bincount(corpus.train, minlength=10_000)
    assert counts.min() > 0 and (np.diff(counts) <= 0).all()


def test_real_characters(real_dir):
    corpus = ptb.load_characters(real_dir)
    assert [len(corpus[i]) for i in range(3)] == [5_059_550, 396_412, 446_184]
    assert len(corpus.vocabulary) == 50
    newline = corpus.vocabulary.index("\n")
    assert [(corpus[i] == newline).sum() for i in range(3)] == [42_068, 3_370, 3_761]
