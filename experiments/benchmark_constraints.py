"""What a constraint costs: steps of flax models with constrained kernels and without.

    python -m experiments.benchmark_constraints [--peers] [--out=FILE] [--seconds=60]

One step is loss and gradient of all parameters, float32, compilation excluded, of a
small transformer, a convolutional net and an LSTM. The contenders of a model run in
turn, so that ratios hold where times do not: the unconstrained model, and the same
with its kernels constrained (of the LSTM the recurrent one), each built where it is
read (`as it is`) or once a call (`baked`). `--peers` adds the same models in PyTorch:
plain, under `parametrizations.orthogonal`, and with `parametrize.cached()`.
"""

import dataclasses
import json
import pathlib

from absl import flags

from experiments import commandline
from experiments.benchmark import constraints, timing
from experiments.runs import files, records

_OUT = flags.DEFINE_string("out", None, "JSON file of the results.")
_PEERS = flags.DEFINE_bool("peers", False, "Also PyTorch, if it is installed.")
_SECONDS = flags.DEFINE_float("seconds", 60.0, "Time of a model's rounds, 15 at most.")
_MODELS = flags.DEFINE_multi_enum(
    "model", list(constraints.MODELS), list(constraints.MODELS), "Models to time."
)


def main(words: list[str]) -> None:
    """Times the models asked for, prints the table and writes the results."""
    commandline.no_words(words)
    results: dict[str, dict[str, timing.Timing]] = {}
    for name in _MODELS.value:
        results[name] = timing.in_turn(constraints.calls(name), seconds=_SECONDS.value)
        if _PEERS.value:
            # By themselves: a slow one would leave the others few rounds.
            rivals = timing.in_turn(
                constraints.torch_calls(name), seconds=_SECONDS.value
            )
            results[name] |= rivals
    print(constraints.table(results))
    if _OUT.value:
        record = {
            "machine": records.machine(),
            "revision": records.revision(),
            "models": {
                name: {label: dataclasses.asdict(t) for label, t in timings.items()}
                for name, timings in results.items()
            },
        }
        path = pathlib.Path(_OUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    commandline.run(main)
