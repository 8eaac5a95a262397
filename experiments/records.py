"""Small JSON records of finished runs, from which tables and figures are made.

    python -m experiments.records WORKDIR NAME

writes experiments/results/NAME.json: config, result, code revision, machine in general
terms and the points of the curves. NAME may have folders in it. The record of a run
that diverged has no result, but the step and what was not finite. Exit codes: 0 done,
1 wrong arguments, 2 a workdir that holds no such run.
"""

from experiments import commandline
from experiments.runs import records


def main(words: list[str]) -> None:
    """Records the run of a workdir under a name."""
    if len(words) != 2:
        commandline.fail(1, f"WORKDIR and NAME must be given, got {words}")
    text, name = words
    try:
        records.check_name(name)
    except ValueError as error:
        commandline.fail(1, error)
    try:
        print(records.record(commandline.folder(text, "WORKDIR"), name))
    except (ValueError, OSError) as error:
        commandline.refuse(error)


if __name__ == "__main__":
    commandline.run(main)
