"""A bound on the error of a trained classifier, beside what was measured.

    python -m experiments.certify --workdir=DIR

takes a finished run of configs/certificate.py or configs/pixel_mnist.py with a model
`spectral` or `ornn`, computes the certificate of docs/generalization.md from its
parameters and its training split, and writes `certificate.json` into the workdir; a
record of the run (experiments.records) then has it too. What is measured on the test
split is read from the run's result. A run of configs/certificate.py:random_labels is
the control: its labels cannot be learned, and its certificate may not be below 0.9.
--rounded bounds another classifier in its place: the model with its parameters rounded
to few bits, whatever its layers are, and writes `certificate_rounded.json`.
The config file of a run of a task or a model of one's own is imported; --config=FILE
says where it is, if not where it was.

Exit codes: 0 done, 1 wrong flags, 2 a workdir or data that do not fit.
"""

from absl import flags

from experiments import commandline

_RUN = commandline.define_of_run()
_DELTA = flags.DEFINE_float(
    "delta", 0.05, "The probability with which the bound may fail."
)
_MODELS = flags.DEFINE_integer(
    "models", 1, "Of how many models this one was chosen: it costs their logarithm."
)
_ROUNDED = flags.DEFINE_bool(
    "rounded", False, "The model with its parameters rounded to few bits."
)
_COMPILATION_CACHE = commandline.define_compilation_cache()


def main(words: list[str]) -> None:
    """Computes, writes and prints the certificate; what is wrong is one line."""
    commandline.no_words(words)
    commandline.quiet()

    from experiments.training import certificates, compilations  # --help is quick

    try:
        compilations.keep(_COMPILATION_CACHE.value)
        run = _RUN.arguments()
        of_run, text = certificates.of_run, certificates.text
        if _ROUNDED.value:
            of_run, text = certificates.of_rounded_run, certificates.rounded_text
        values = of_run(**run, delta=_DELTA.value, models=_MODELS.value)
    except (ValueError, OSError) as error:
        commandline.fail(2, error)
    print(text(values, run["workdir"]))


if __name__ == "__main__":
    commandline.run(main)
