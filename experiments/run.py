"""Trains what a config file says.

    python -m experiments.run --config=configs/addition.py --workdir=DIR

Any field of the config can be given as --config.FIELD=VALUE, for instance
--config.train.steps=500 or --config.model.hidden=64; a field that the config does not
have, or that its task, model or schedule does not read, is an error. What follows a
colon in --config goes to the file's get_config, as that in
--config=configs/pixel_mnist.py:permuted.

--check makes all checks of the run, says what it would train and lists every field
that it reads as FIELD = VALUE; it trains nothing, writes nothing, and needs no workdir.

The same command on the same workdir goes on from the last checkpoint. Exit codes:
0 done, 1 wrong flags, 2 a config, data or workdir that does not fit, 3 a loss that
is not finite, 4 a workdir that cannot be written, 5 another process of the run gone or
not come (134 where XLA is faster), 128 + N stopped by the signal N (SIGHUP 129, SIGINT
130, SIGUSR1 138, SIGTERM 143), with the step saved.
--verbosity=1 shows where an error was raised.

Batches are split over the devices of the machine (config.train.devices). A run on
several machines is this command on each, with one shared folder: under `srun` and on a
TPU pod the processes find each other, elsewhere by --coordinator=HOST:PORT (of the
first), --num_processes=N and --process_id=I. All have to come within --join_timeout
seconds.
"""

from absl import flags
from ml_collections import config_flags

from experiments import commandline
from experiments.runs import identity

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), as in configs/."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: config, metrics, checkpoints and result go there. New, empty,"
    " or that of the same config, which is then resumed.",
)
_CHECK = flags.DEFINE_bool(
    "check", False, "Say what would be trained, and train and write nothing."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port at which process 0 of the run listens."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Processes of the run.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "This process, from 0.", lower_bound=0
)
_JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout",
    300,
    "Seconds within which all processes of the run have to come; a day at most.",
    lower_bound=1,
    upper_bound=86_400,
)
_COMPILATION_CACHE = commandline.define_compilation_cache()
flags.mark_flag_as_required("config")
flags.register_multi_flags_validator(
    ["workdir", "check"],
    lambda values: values["workdir"] is not None or values["check"],
    "--workdir must be given, unless --check is.",
)


def main(words: list[str]) -> None:
    """Trains by the flags; whatever is wrong is one line and an exit code."""
    commandline.no_words(words)
    commandline.quiet()

    # Late: --help and typing errors are quick without JAX.
    from experiments.training import compilations, loop, processes

    with processes.together():
        try:
            config = _CONFIG.value
            overrides = commandline.overrides()
            commandline.choose_length(config.train, overrides)
            identity.check_overrides(config, overrides)
            compilations.keep(_COMPILATION_CACHE.value)
            processes.join(
                _COORDINATOR.value,
                _NUM_PROCESSES.value,
                _PROCESS_ID.value,
                timeout=_JOIN_TIMEOUT.value,
            )
            workdir = None
            if _WORKDIR.value is not None:
                workdir = commandline.folder(_WORKDIR.value)
            if workdir is None or _CHECK.value:
                loop.check(config, workdir)
            else:
                loop.train(config, workdir, config_file=commandline.config_file())
        except loop.NonFiniteLoss as error:
            commandline.fail(3, error)
        except (ValueError, OSError) as error:
            commandline.refuse(error)


if __name__ == "__main__":
    commandline.run(main, resumes=True)
