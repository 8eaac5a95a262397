"""One long series cut into windows, each with the values that follow it."""

from collections.abc import Iterator

import numpy as np

from experiments.data import arrays as files
from experiments.data import scaling, splits

Batch = dict[str, np.ndarray]

AXES = ("step", "feature")


class Windows:
    """Windows of a series and the next values, in splits that follow one another.

    The last share of the series is the test part, the share before it the validation
    part. The targets of a window lie in one part; its inputs may begin in the part
    before, which is known by then. No training window reaches beyond the training part,
    from which alone mean and scale are taken.

    Args:
      arrays: "series", (steps,) or (steps, features), as `arrays.read` gives it.
      window: steps of the inputs.
      horizon: steps that are predicted, of all features.
      normalize: whether the series is standardized.
      fill: see `scaling.fill`; "previous" looks back within a window.
      options: of which only the shares are set.

    Attributes:
      as those of `items.Items`; a prediction has the shape (horizon, features).

    Raises:
      ValueError: names the array, its value and what is allowed, or the field.
    """

    every_step = False
    classes = None

    def __init__(
        self,
        arrays: files.Arrays,
        *,
        window: int,
        horizon: int,
        normalize: bool,
        fill: str,
        options: splits.Options,
    ):
        self._series = _series(arrays)
        self.fill = fill
        self.time_steps, self._horizon = window, horizon
        self.in_features = self._series.shape[1]
        self.target_shape = (horizon, self.in_features)
        self._firsts = _firsts(len(self._series), window, horizon, options)
        self.counts = {split: len(firsts) for split, firsts in self._firsts.items()}
        self._fit(self._firsts["train"].stop + window + horizon - 1, normalize)

    def _fit(self, training: int, normalize: bool) -> None:
        """Looks at every value once; the first `training` steps set mean and scale."""
        moments = scaling.Moments(self.in_features)
        missing = self.fill != "error"
        for rows, block in files.blocks(self._series):
            values = block.astype(np.float64)
            files.check_values(
                files.SERIES, values, rows.start, None, AXES, missing=missing
            )
            moments.add(values[: max(0, training - rows.start)])
        scaling.check_filled(files.SERIES, moments)
        self.inputs_scaling = scaling.fit(moments, normalize)
        self.targets_scaling = scaling.Scaling(
            *(np.tile(each, self._horizon) for each in self.inputs_scaling)
        )
        self._mean = moments.mean
        self.fill_values = scaling.first_fill(self.fill, moments.mean)
        variance = moments.variance() / self.inputs_scaling.scale**2
        self.baseline = float(np.mean(variance))

    def batch(self, split: str, places: np.ndarray) -> Batch:
        """Windows of a split, by their places in it.

        Returns:
          "inputs" (count, window, features) and "targets" (count, horizon * features),
          float32.
        """
        firsts = np.asarray(self._firsts[split])[places]
        steps = firsts[:, None] + np.arange(self.time_steps + self._horizon)
        values = np.asarray(self._series[steps], np.float64)
        values = scaling.fill(values, self.fill, self._mean)
        scaled = self.inputs_scaling.apply(values)
        inputs, targets = np.split(scaled, [self.time_steps], axis=1)
        return {"inputs": inputs, "targets": targets.reshape(len(firsts), -1)}

    def new_batches(self, arrays: files.Arrays, size: int) -> Iterator[Batch]:
        """The last window of another series, whose next values are not known.

        Args:
          arrays: "series" alone, of as many features and a window of steps at least.

        Raises:
          ValueError: names the array, its value and what is allowed.
        """
        del size  # one window
        if arrays.keys() != {files.SERIES}:
            raise ValueError(
                f"{files.SERIES} must be the only array, got {', '.join(arrays)}"
            )
        series = _series(arrays)
        steps, features = series.shape
        if steps < self.time_steps or features != self.in_features:
            raise ValueError(
                f"{files.SERIES} must have {self.time_steps} steps at least and"
                f" {self.in_features} features, as those of the run, got {series.shape}"
            )
        first = steps - self.time_steps
        window = np.asarray(series[first:], np.float64)
        missing = self.fill != "error"
        files.check_values(files.SERIES, window, first, None, AXES, missing=missing)
        filled = scaling.fill(window[None], self.fill, self._mean)
        yield {"inputs": self.inputs_scaling.apply(filled)}


def _series(arrays: files.Arrays) -> np.ndarray:
    """(steps, features)."""
    series = arrays[files.SERIES]
    if series.ndim not in (1, 2) or 0 in series.shape:
        raise ValueError(
            "series must be (steps,) or (steps, features), none of them 0, got"
            f" {series.shape}"
        )
    return series[:, None] if series.ndim == 1 else series


def _firsts(
    steps: int, window: int, horizon: int, options: splits.Options
) -> dict[str, range]:
    """{split: the steps at which its windows begin}."""
    sizes = {
        split: max(
            1, round((getattr(options, f"{split}_share") or splits.SHARE) * steps)
        )
        for split in ("valid", "test")
    }
    ends = {"test": steps, "valid": steps - sizes["test"]}
    ends["train"] = ends["valid"] - sizes["valid"]
    if ends["train"] < window + horizon:
        raise ValueError(
            "config.task.window and config.task.horizon must fit into the"
            f" {max(0, ends['train'])} steps of the training part, got {window} and"
            f" {horizon}"
        )
    for split, size in sizes.items():
        if size < horizon:
            raise ValueError(
                f"config.task.horizon must be at most the {size} steps of the {split}"
                f" part, got {horizon}"
            )
    begins = {"train": window, "valid": ends["train"], "test": ends["valid"]}
    return {
        split: range(begins[split] - window, ends[split] - window - horizon + 1)
        for split in files.SPLITS
    }
