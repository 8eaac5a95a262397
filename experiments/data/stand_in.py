"""Small random data in the shapes of the real sets, to try a run without them.

`--config.data_dir=stand-in` chooses them. There is nothing to learn in them, and a
record of such a run says so.
"""

import numpy as np

NAME = "stand-in"
DIGITS = {"train": 640, "valid": 100, "test": 100}
WORDS = {"train": 600, "valid": 100, "test": 100}


def digits():
    """{part: (images (items, 28, 28), labels (items,))}, uint8, uniformly random."""
    generator = np.random.default_rng(0)
    return {
        part: (
            generator.integers(256, size=(items, 28, 28), dtype=np.uint8),
            generator.integers(10, size=items, dtype=np.uint8),
        )
        for part, items in DIGITS.items()
    }


def text():
    """{part: text} of twenty words, ten to a line."""
    generator = np.random.default_rng(0)
    parts = {}
    for part, items in WORDS.items():
        words = [f"word{number % 20}" for number in range(20)]
        words += [f"word{number}" for number in generator.integers(20, size=items - 20)]
        lines = (" ".join(words[i : i + 10]) for i in range(0, items, 10))
        parts[part] = "".join(f" {line} \n" for line in lines)
    return parts
