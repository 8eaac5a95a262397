"""Figures from logs alone; nothing here imports JAX.

    python -m experiments.figures
    python -m experiments.figures WORKDIR [WORKDIR ...]

draws the paper's figures anew from experiments/results, or `learning_curve.png` in each
workdir. Exit codes: 0 done, 1 a log or record that cannot be read, 2 wrong arguments.
"""

from experiments import commandline
from experiments.reproduce import figures
from experiments.runs import curves


def main(words: list[str]) -> None:
    """Draws each workdir that is named, or else the paper's figures."""
    try:
        if not words:
            for path in figures.redraw():
                print(path)
        for workdir in map(commandline.folder, words):
            output = workdir / "learning_curve.png"
            print(curves.learning_curve(workdir / "metrics.jsonl", output))
    except (ValueError, OSError) as error:
        commandline.fail(1, error)


if __name__ == "__main__":
    commandline.run(main, usage=2)
