"""Figures from logs alone; nothing here imports JAX.

    python -m experiments.figures
    python -m experiments.figures WORKDIR
    python -m experiments.figures WORKDIR WORKDIR ... [--out=FILE]

draws the paper's figures anew from experiments/results, or `learning_curve.png` in a
workdir, or the curves of several workdirs over one another: FILE.png, by default
comparison.png, with a PDF and an SVG beside it. The legend has what differs between
their configs.

Exit codes: 0 done, 1 wrong arguments, 2 a log or record that cannot be read.
"""

from absl import flags

from experiments import commandline
from experiments.reproduce.figures import drawing
from experiments.runs import curves

_OUT = flags.DEFINE_string(
    "out", None, "File of several workdirs' curves; default: comparison.png."
)


def main(words: list[str]) -> None:
    """Draws each workdir that is named, or else the paper's figures."""
    try:
        if _OUT.value is not None and len(words) < 2:
            commandline.fail(1, f"--out must stand with several WORKDIR, got {words}")
        workdirs = [commandline.folder(word, "WORKDIR") for word in words]
        if not workdirs:
            for path in drawing.redraw():
                print(path)
        elif len(workdirs) == 1:
            metrics = workdirs[0] / "metrics.jsonl"
            if not metrics.exists():
                raise ValueError(
                    f"WORKDIR must hold a run, got {workdirs[0]}: no {metrics.name}"
                )
            output = workdirs[0] / "learning_curve.png"
            print(curves.learning_curve(metrics, output))
        else:
            output = commandline.folder(_OUT.value or "comparison.png", "--out")
            print(curves.compare(workdirs, output))
    except (ValueError, OSError) as error:
        commandline.refuse(error)


if __name__ == "__main__":
    commandline.run(main)
