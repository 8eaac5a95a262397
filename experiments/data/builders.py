"""tensorflow-datasets builders that need no TensorFlow.

Only `features.Tensor` and `Text` in array_record files do without it. Importing
this module is slow: import it inside the function that needs it. A builder takes
the function that gives the data, so that it is built alike from a download and
from local files. Data sets are kept in TFDS_DATA_DIR or ~/tensorflow_datasets.
"""

import contextlib
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from experiments.data import files


class MnistDigits(tfds.core.GeneratorBasedBuilder):
    """MNIST: a 28 x 28 image, a label and the place in the IDX file an example."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, read, **kwargs):
        """Takes read, () -> {"train" | "test": (images, labels)}, and data_dir."""
        self._read = read
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits (LeCun, Cortes, Burges).",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=(28, 28), dtype=np.uint8, encoding="bytes"
                    ),
                    "label": tfds.features.Tensor(shape=(), dtype=np.uint8),
                    "index": tfds.features.Tensor(shape=(), dtype=np.int32),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            part: self._generate_examples(images, labels)
            for part, (images, labels) in self._read().items()
        }

    def _generate_examples(self, images, labels):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": label, "index": index}


class PtbText(tfds.core.GeneratorBasedBuilder):
    """Penn Treebank after Mikolov: one example a part, its whole text."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, read, **kwargs):
        """Takes read, () -> {"train" | "valid" | "test": bytes}, and data_dir."""
        self._read = read
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Penn Treebank, Mikolov's language-modelling preprocessing.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            part: self._generate_examples(text) for part, text in self._read().items()
        }

    def _generate_examples(self, text):
        yield 0, {"text": text}


def prepared(make_builder):
    """Returns a builder whose data set is on disk, building it where it is not.

    Args:
      make_builder: function without arguments that gives a new builder.

    Raises:
      Whatever the builder's read function raises; OSError where the data set
        cannot be written.
    """
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        make_builder().download_and_prepare(
            download_config=config, file_format="array_record"
        )
    except OSError:
        # Another process may have finished the same data set meanwhile.
        if not make_builder().data_path.exists():
            raise
    return make_builder()


@contextlib.contextmanager
def undamaged(folder):
    """A context in which whatever goes wrong is the fault of what lies in a folder.

    Raises:
      files.Damaged: names the folder.
    """
    try:
        yield
    except Exception as error:  # protobuf, Riegeli and JSON have many kinds
        cause = " ".join(str(error).split())[:200]
        raise files.Damaged(
            f"{folder} is damaged; remove the folder, and the data set is made again"
            f" ({type(error).__name__}: {cause})"
        ) from error


def _parts(kind, read, tfds_dir, of_builder):
    """Returns what `of_builder` takes from a data set, and the data set's folder."""
    root = pathlib.Path(tfds_dir or constants.DATA_DIR).expanduser()
    folder = root / kind.name / str(kind.VERSION)

    def make_builder():
        return kind(read=read, data_dir=tfds_dir)

    # What lies there already can be damaged; what is made now can fail otherwise.
    with undamaged(folder) if folder.exists() else contextlib.nullcontext():
        builder = prepared(make_builder)
    with undamaged(folder):
        return of_builder(builder), builder.data_dir


def mnist_parts(read, tfds_dir=None):
    """Returns MNIST through its builder, in the order of the IDX files.

    Args:
      read: see `MnistDigits`; called only where the data set is not built yet.
      tfds_dir: folder of the data sets instead of the default one.

    Returns:
      ({"train" | "test": (images (items, 28, 28) uint8, labels (items,) uint8)},
      the data set's folder).

    Cost: about 4 s to build and 4 s to read the 70,000 digits.
    """

    def parts(builder):
        return {part: _digits(builder, part) for part in builder.info.splits}

    return _parts(MnistDigits, read, tfds_dir, parts)


def _digits(builder, part):
    source = builder.as_data_source(split=part)
    # One batched read is several times faster than iterating.
    examples = source.__getitems__(list(range(len(source))))
    examples.sort(key=lambda example: example["index"])
    images = np.stack([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples], np.uint8)
    return images, labels


def ptb_parts(read, tfds_dir=None):
    """Returns the Penn Treebank text through its builder.

    Args:
      read: see `PtbText`; called only where the data set is not built yet.
      tfds_dir: folder of the data sets instead of the default one.

    Returns:
      ({"train" | "valid" | "test": bytes}, the data set's folder).
    """

    def parts(builder):
        return {
            part: builder.as_data_source(split=part)[0]["text"]
            for part in builder.info.splits
        }

    return _parts(PtbText, read, tfds_dir, parts)
