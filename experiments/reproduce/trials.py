"""Tables of the trials that chose learning rates. No JAX."""

import pathlib

from experiments.reproduce import markdown, protocol
from experiments.runs import records

# By folder of their records: models, metric, digits, what is best.
GRIDS = {
    "ptb_word_grid": (protocol.RECURRENT, "perplexity", "{:.0f}", min),
    "addition_grid": (protocol.RECURRENT, "mse", "{:.4f}", min),
    "addition_grid_300": (protocol.RECURRENT, "mse", "{:.4f}", min),
    "deep_mlp_grid": (protocol.FEEDFORWARD, "accuracy", "{:.3f}", max),
}


def table(folder: str, results: pathlib.Path) -> str:
    """Validation metrics of trials over learning rates, the best of a model in bold."""
    models, metric, form, best = GRIDS[folder]
    found: dict[tuple[str, float], float | None] = {}
    for path in (results / folder).glob("*.json"):
        record = records.read(f"{folder}/{path.stem}", results) or {}
        config, end = record["config"], record["result"]
        key = config["model"]["name"], config["train"]["learning_rate"]
        found[key] = end["metrics"]["valid"][metric] if end else None
    rates = sorted({rate for _, rate in found})
    rows = []
    for model in models:
        tried = {rate: found[model, rate] for rate in rates if (model, rate) in found}
        numbers = [value for value in tried.values() if value is not None]
        cells = ["not run"] * len(rates)
        for rate, value in tried.items():
            text = "diverged" if value is None else form.format(value)
            if numbers and value == best(numbers):
                text = f"**{text}**"
            cells[rates.index(rate)] = text
        rows.append([model, *cells])
    return markdown.table(["model", *(f"{rate:g}" for rate in rates)], rows)
