"""Odd input for every command: it ends well or says in one line what is wrong.

    python -m tests.fuzz --cases=10000 [--seed=0] [--out=FILE]
    python -m tests.fuzz --seed=0 --case=123

A case is a command with odd values in its fields and flags, and damaged files, drawn
from the seed and its number; each runs in a process of its own, with bounds on time and
memory. It may exit with 0, or with a documented code and one line on stderr that names
a field, a flag or a file of the case. A traceback, death by a signal, no end and more
memory than the bound are failures. To be quick, a run that passes every check is
trained in one case of `TRAINED` and is small then; the others end before the first
parameters are drawn and count as accepted. `--case` shows one case and what it prints.
"""

import argparse
import collections
import contextlib
import importlib
import io
import json
import os
import pathlib
import random
import re
import resource
import runpy
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from typing import NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 90  # of a case
BYTES = 8 * 2**30  # of addresses, of which JAX takes many that it never touches
TRAINED = 12  # one accepted run in so many is trained
LONGEST = 600  # characters of an error
ACCEPTED = 77  # exit code of a run that passed every check and is not trained

# ---- Values.

ODD = (
    *("", "None", "True", "abc", "é✓漢", "a" * 3000, "'", '"x"', "x y", "-", "--", "~"),
    *("-1", "0", "1", "2", "3", "16", "-0", "1.5", "-2.5", "1e-300", "1e300", "-1e300"),
    *("1e39", "3.5e38", "1e-45", "nan", "inf", "-inf", str(10**26), str(-(10**26))),
    *(
        str(2**31 - 1),
        str(2**31),
        str(2**63),
        "0x10",
        "1_000",
        "1e3",
        "٣",
        " 3 ",
        "3\n",
    ),
    *("0.1", "0.5", "0.999", "1.0", "(1, 2)", "(1, 1)", "(0, 1)", "(1,)", "(1, 2, 3)"),
    *(
        "(1, (2, 3))",
        "[1, 2]",
        "[]",
        "()",
        "{}",
        "{'a': 1}",
        "(1",
        "[[[[[1]]]]]",
        "lambda",
    ),
    *("1+1", "__import__('os')", "b'x'", "1j", "...", "%s", "{0}", "$HOME", "\\n", "#"),
)
NAMES = (
    *("spectral", "ornn", "exprnn", "scornn", "rnn", "irnn", "lstm", "gru", "mlp"),
    *("spectral_lstm", "spectral_gru", "resnet", "spectral_mlp", "spectral_resnet"),
    *("addition", "copying", "mnist", "pixel_mnist", "random_labels", "ptb_word"),
    *("ptb_char", "relu", "tanh", "identity", "modrelu", "leaky_relu", "random"),
    *("henaff", "cayley", "auto", "scan", "wy", "low_rank", "dense", "adam", "adamw"),
    *("rmsprop", "sgd", "lion", "constant", "exponential", "cosine", "plateau"),
    *("stop", "restore", "best", "last", "grid", "tpe", "median", "stand-in"),
)
JSON_ODD = (
    *(None, True, False, 0, -1, 1, 2.5, 1e300, 10**26, "", "x", "é" * 50, [], [1, 2]),
    *({}, {"a": {"b": 1}}, [[[]]], "stand-in", "addition", float("nan"), float("inf")),
)
CONFIGS = (
    *("addition", "copying", "copying:500", "pixel_mnist", "pixel_mnist:permuted"),
    *("deep_mlp", "deep_mlp:mlp", "deep_mlp:resnet", "deep_mlp:spectral_resnet"),
    *("ptb_char", "ptb_word", "ptb_word:smoke", "certificate", "certificate:784"),
    *("certificate:rows", "certificate:random_labels", *("arrays",) * 4),
)
WRONG_CONFIGS = (
    *("addition:x", "copying:1", "deep_mlp:é", "ptb_word:" + "a" * 200, "nothing", ""),
    *("common", "spaces/addition", "__init__"),
)
FOLDERS = (
    *(
        "a b",
        "é✓",
        "[x]",
        "a\\b",
        "~",
        "~/x",
        "~no_such_user/x",
        "a/b/c/d",
        "?x=1#y",
        "%41b",
    ),
    *("x" * 300, ".", "..", "", "with\nline", "-x", "--workdir", "*", "$HOME", "a\tb"),
    *("file", "file/x", "/dev/null", "/dev/null/x", "/proc/x", "loop", "foreign"),
)


def value(rng):
    """An odd value, or the name of something."""
    return rng.choice(NAMES if rng.random() < 0.25 else ODD)


# ---- Cases: each makes its files in an empty folder and returns the command's words.


class Place(NamedTuple):
    """Where a case is, and the runs that it may copy."""

    folder: pathlib.Path
    runs: pathlib.Path

    def run(self, name, to="run"):
        """A copy of a run that was made before."""
        shutil.copytree(self.runs / name, self.folder / to)
        return self.folder / to


def config_of(name):
    path, colon, variant = name.partition(":")
    return f"--config={ROOT / 'configs' / path}.py{colon}{variant}"


def fields_of(name):
    """The fields of a config, as "train.steps"."""
    from experiments.runs import identity

    path, _, variant = name.partition(":")
    module = importlib.import_module(f"configs.{path}")
    config = module.get_config(variant) if variant else module.get_config()
    return sorted(identity.flatten(config.to_dict()))


def small(name):
    """What makes a run of a config small; odd values come after, and win."""
    found = {
        **{"train.steps": 2, "train.batch_size": 4, "model.hidden": 6},
        **{"train.eval_every": 2, "train.log_every": 1},
    }
    if name == "arrays":
        found |= {"task.path": DATA, "train.warmup_steps": 0}
    elif not name.startswith(("addition", "copying")):
        found["data_dir"] = "stand-in"
    if name.startswith(("addition", "copying")):
        found["task.length"] = 4
    if name.startswith("ptb"):
        found["task.window"] = 5
    if name.startswith(("pixel", "certificate")):
        found["task.steps"] = 28
    if name.startswith("deep_mlp"):
        found["model.layers"] = 4
    if not name.startswith("deep_mlp:") or "spectral" in name:
        found["model.reflectors"] = 2
    return found


def overrides(rng, name):
    """Words that set fields: some odd, some of them misspelled."""
    known = fields_of(name)
    chosen = small(name)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 3))):
        chosen[rng.choice(known)] = value(rng)
    words = [f"--config.{field}={each}" for field, each in chosen.items()]
    if rng.random() < 0.06:
        field = rng.choice(known)
        wrong = (
            f"{field}x",
            f"{field}.x",
            field.split(".")[0],
            f"nope.{field}",
            "",
            "é",
        )
        words.append(f"--config.{rng.choice(wrong)}={value(rng)}")
    if rng.random() < 0.02:
        words.append(f"--config.{rng.choice(known)}")
    return words


DATA = "data.npz"


def good_arrays(generator, kind, features):
    """Arrays of one's own that fit one another."""
    items, steps = generator.integers((6, 1), (40, 7))
    inputs = generator.normal(size=(items, steps, features))
    targets = {
        "classes": np.arange(items) % 2,
        "numbers": inputs.sum((1, 2)),
        "steps": inputs.sum(2),
        "classes at steps": np.arange(items * steps).reshape(items, steps) % 2,
    }
    if kind == "series":
        return {"series": generator.normal(size=(60, features))}
    arrays = {"inputs": inputs, "targets": targets[kind]}
    if generator.random() < 0.4:
        arrays["lengths"] = generator.integers(1, steps + 1, items)
    if generator.random() < 0.2:
        arrays["weights"] = generator.random(items)
    if generator.random() < 0.3:
        return {
            f"{split}_{name}": array
            for name, array in arrays.items()
            for split in ("train", "valid", "test")
        }
    return arrays


def changed_array(rng, array):
    """An array with another type or shape, or an odd value."""
    array = np.array(array)
    types = (
        "U5",
        "O",
        "complex",
        "bool",
        "uint64",
        "float16",
        "longdouble",
        "i1",
        "f8",
    )
    how = rng.choice(("type", "cut", "axis", "less", "empty", "value", "value", "turn"))
    if how == "type":
        return array.astype(rng.choice(types))
    if how == "cut":
        return array[:-1]
    if how == "axis":
        return array[..., None]
    if how == "less":
        return array[..., 0] if array.ndim else array
    if how == "empty":
        return array[:0]
    if how == "turn":
        return array.T
    if array.size:
        odd = (float("nan"), float("inf"), 1e300, -1.0, 0.0, 2.5, 7.0, 1e-300)
        array = array.astype(float) if rng.random() < 0.5 else array
        with contextlib.suppress(ValueError, OverflowError):
            array.flat[rng.randrange(array.size)] = rng.choice(odd)
    return array


@np.errstate(all="ignore")
def make_arrays(rng, path, kind=None, features=None):
    """Writes arrays, of which some do not fit; returns the fields of their kind."""
    features = features or rng.choice((1, 2, 3))
    generator = np.random.default_rng(rng.randrange(2**32))
    kinds = ("classes", "classes", "numbers", "steps", "classes at steps", "series")
    kind = kind or rng.choice(kinds)
    arrays = good_arrays(generator, kind, features)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        if not arrays:
            break
        name = rng.choice(sorted(arrays))
        array = arrays.pop(name)
        if rng.random() < 0.15:
            continue  # it is missing
        other = rng.choice((name, name, name, name, "labels", "series", "valid_inputs"))
        arrays[other] = changed_array(rng, array)
    if rng.random() < 0.1:
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    else:
        np.savez(path, **arrays)
        if rng.random() < 0.1:
            damage(rng, path)
    return {
        "series": {"task.window": 3, "task.horizon": 2},
        "steps": {"task.every_step": True},
        "classes at steps": {"task.every_step": True},
    }.get(kind, {})


def workdir(rng, place):
    """A folder's name, new or odd, or of a run that is damaged."""
    kind = rng.random()
    if kind < 0.7:
        return str(place.folder / "new")
    if kind < 0.9:
        (place.folder / "file").write_text("x")
        (place.folder / "loop").symlink_to(place.folder / "loop")
        (place.folder / "foreign").mkdir()
        (place.folder / "foreign" / "notes.txt").write_text("mine")
        return rng.choice(FOLDERS)
    return str(damaged_run(rng, place))


def damaged_run(rng, place):
    """A finished or an unfinished run of which a file may be damaged."""
    name = rng.choice(("addition", "unfinished", "mnist", "arrays"))
    (place.folder / "copied").write_text(name)
    if not (place.folder / DATA).exists():
        shutil.copy(place.runs / DATA, place.folder / DATA)
        if rng.random() < 0.1:
            damage(rng, place.folder / DATA)
    run = place.run(name)
    for _ in range(rng.choice((0, 1, 1, 2))):
        files = sorted(each for each in run.rglob("*") if each.is_file())
        if rng.random() < 0.7:
            top = ("config.json", "result.json", "metrics.jsonl")
            files = [run / each for each in top if (run / each).is_file()] or files
        if files:
            damage(rng, rng.choice(files))
    return run


def damage(rng, path):
    """Cuts, empties, replaces or removes a file, or changes a value in its JSON."""
    content = path.read_bytes()
    how = rng.choice(("json", "json", "json", "cut", "flip", "text", "folder", "gone"))
    if how == "json":
        # What was damaged before may be no JSON, or too deep for the reader.
        with contextlib.suppress(ValueError, RecursionError):
            path.write_text(changed_json(rng, content.decode()))
    elif how == "cut":
        path.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif how == "flip" and content:
        at = rng.randrange(len(content))
        flipped = bytes([content[at] ^ (1 << rng.randrange(8))])
        path.write_bytes(content[:at] + flipped + content[at + 1 :])
    elif how == "text":
        odd = ("", "[]", "5", "null", "{}", "\n", "[" * 5000, "é", '{"step": 1}', "NaN")
        path.write_text(rng.choice(odd))
    elif how in ("folder", "gone"):
        path.unlink()
        if how == "folder":
            path.mkdir()


def changed_json(rng, text):
    """JSON, or lines of it, with one value changed, added or removed."""
    lines = text.splitlines() if text.startswith('{"') else [text]
    at = rng.randrange(len(lines))
    tree = node = json.loads(lines[at])
    while True:
        if not isinstance(node, dict) or not node:
            break
        key = rng.choice(sorted(node))
        if isinstance(node[key], dict) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        if rng.random() < 0.2:
            del node[key]
        elif rng.random() < 0.2:
            node[rng.choice((key + "x", "", "é", "data_dir"))] = rng.choice(JSON_ODD)
        else:
            node[key] = rng.choice(JSON_ODD)
        break
    lines[at] = json.dumps(tree)
    return "\n".join(lines) + "\n"


def shuffled(rng, words):
    """The words, some of them missing, repeated, unknown or beside the flags."""
    words = list(words)
    if rng.random() < 0.08 and words:
        words.pop(rng.randrange(len(words)))
    if rng.random() < 0.05:
        words.append(
            rng.choice((*ODD, "--nope=1", "--help=x", "--verbosity=x", "word"))
        )
    if rng.random() < 0.03 and words:
        words.append(rng.choice(words))
    return words


def config_words(rng, place):
    """--config and its overrides; sometimes a file that is none."""
    if rng.random() < 0.93:
        name = rng.choice(CONFIGS)
        more = []
        if name == "arrays":
            fields = make_arrays(rng, place.folder / DATA)
            more = [f"--config.{field}={value}" for field, value in fields.items()]
        return [config_of(name), *more, *overrides(rng, name)]
    if rng.random() < 0.5:
        return [config_of(rng.choice(WRONG_CONFIGS))]
    own = place.folder / "own.py"
    own.write_text(rng.choice(WRONG_FILES).replace("get_space", "get_config"))
    return [f"--config={rng.choice((own, place.folder, value(rng)))}"]


GOOD_SPACE = """
def get_space():
    return {"train.learning_rate": [1e-3, 1e-2], "seed": [0, 1]}
"""
WRONG_FILES = (
    *("", "x = (", "def get_space():\n    return None\n", "import nothing_like_it\n"),
    *(
        "def get_space():\n    return 1 / 0\n",
        "get_space = 3\n",
        "raise SystemExit(9)\n",
    ),
    *("def get_space(a, b, c):\n    return {}\n", "\x00", "é = 1\n", "assert False\n"),
    "raise Exception('a\\nb')\n",
)


def run(rng, place):
    folder = workdir(rng, place)
    if folder == str(place.folder / "run") and rng.random() < 0.7:
        return shuffled(rng, [*again(place), f"--workdir={folder}"])
    words = [*config_words(rng, place), f"--workdir={folder}"]
    if rng.random() < 0.2:
        words = [*words[: rng.choice((-1, len(words)))], "--check"]
    if rng.random() < 0.05:  # two of the three: all would wait for other processes
        flags = ("coordinator", "num_processes", "process_id")
        for flag in rng.sample(flags, 2):
            words.append(f"--{flag}={rng.choice(('localhost:1', '1', value(rng)))}")
    return shuffled(rng, words)


def again(place):
    """The words of the run that a case's was copied from."""
    return TEMPLATES[(place.folder / "copied").read_text()]


def sweep(rng, place):
    name = rng.choice(CONFIGS[:8])
    known = fields_of(name)
    space = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        field = rng.choice((*known, "seed", "task.name", "x.y", ""))
        values = [rng.choice((*JSON_ODD[:-2], 1e-3, 3, "spectral")) for _ in range(2)]
        spec = rng.choice(
            (
                *(values, values, [values[0]], tuple(values), values[0]),
                {"low": values[0], "high": values[1], "log": rng.choice(JSON_ODD[:4])},
                {"low": 1e-4, "high": 1e-2, "log": True, "int": rng.choice((True, 3))},
                *({"by": rng.choice(known), "x": values}, {"by": values[0]}),
            )
        )
        space[field] = spec
    file = place.folder / "space.py"
    file.write_text(
        f"nan = inf = float('nan')\n\ndef get_space():\n    return {space!r}\n"
    )
    if rng.random() < 0.15:
        file.write_text(rng.choice(WRONG_FILES))
    words = [*config_words(rng, place), f"--space={file}"]
    if rng.random() < 0.33:
        file.write_text(GOOD_SPACE)
        fields = [f"--config.{field}={each}" for field, each in small(name).items()]
        words = [config_of(name), *fields, f"--space={file}"]
    odd = {
        **{"sampler": ("grid", "random", "tpe"), "pruner": ("none", "median", "x")},
        **{"trials": ("1", "2"), "seed": ("0", "7"), "pruner_startup": ("1", "-3")},
        **{"pruner_warmup": ("0", "5"), "heartbeat": ("1", "15"), "grace": ("2", "90")},
        **{"max_retries": ("0", "3"), "study": ("s", "é", "a" * 600)},
        "storage": (
            *("sqlite://", "x", "postgresql://nobody@localhost:1/x", "mysql://x"),
            *("sqlite:////proc/x", "://", "sqlite:///" + "a" * 300, "postgresql://"),
        ),
    }
    for flag in rng.sample(sorted(odd), rng.choice((0, 1, 1, 2, 3))):
        words.append(f"--{flag}={rng.choice((*odd[flag], value(rng)))}")
    folder = workdir(rng, place)
    if rng.random() < 0.15:
        words = ["summary", *words[-1:]]
    if rng.random() < 0.1:
        (place.folder / "new").mkdir(exist_ok=True)
        odd_sweep = {key: rng.choice(JSON_ODD) for key in ("config", "space", "study")}
        text = rng.choice(("[]", "5", "null", "{}", "x", "", json.dumps(odd_sweep)))
        (place.folder / "new" / "sweep.json").write_text(text)
        folder = place.folder / "new"
    # A server that cannot be reached is waited for otherwise.
    return shuffled(rng, [*words, f"--workdir={folder}"]) + ["--max_outage=1"]


def of_run(rng, place, flags):
    """Words of a command that reads a run."""
    folder = damaged_run(rng, place) if rng.random() < 0.85 else workdir(rng, place)
    words = [f"--workdir={folder}"]
    for flag, usual in flags.items():
        if rng.random() < 0.5:
            words.append(f"--{flag}={rng.choice((*usual, *usual, value(rng)))}")
    return words


def predict(rng, place):
    outputs = (
        "out.npz",
        "é.npz",
        "file",
        "/proc/x",
        "none/out.npz",
        ".",
        "~no_such_user/x",
    )
    (place.folder / "file").write_text("x")
    flags = {"split": ("test", "valid", "train"), "which": ("best", "last")}
    flags |= {"data_dir": ("stand-in", "file", "nowhere")}
    if rng.random() < 0.4:
        words = of_run(rng, place, flags)
        return shuffled(rng, [*words, f"--output={rng.choice(outputs)}"])
    kind = rng.choice((None, "classes", "classes", "classes", "series"))
    make_arrays(rng, place.folder / "input.npz", kind, rng.choice((None, 2, 2)))
    array = np.random.default_rng(rng.randrange(9)).normal(size=(4, 5, 2))
    np.save(place.folder / "input.npy", changed_array(rng, array))
    if rng.random() < 0.3:
        words = of_run(rng, place, flags)
    else:
        shutil.copy(place.runs / DATA, place.folder / DATA)
        words = [f"--workdir={place.run('arrays')}"]
    files = (*("input.npz",) * 6, *("input.npy",) * 2, ".", "run", DATA, value(rng))
    outputs = ("out.npz",) * 9 + outputs
    words += [f"--input={rng.choice(files)}", f"--output={rng.choice(outputs)}"]
    return shuffled(rng, words)


def export(rng, place):
    (place.folder / "file").write_text("x")
    flags = {"which": ("best", "last"), "data_dir": ("stand-in", "nowhere")}
    flags |= {
        "platforms": ("cpu", "cpu", "cpu,cuda", "gpu", ""),
        "streaming": ("true",),
    }
    outputs = ("out.jax", "é", "file", "none/out", ".", "/proc/x")
    words = of_run(rng, place, flags)
    return shuffled(rng, [*words, f"--output={rng.choice(outputs)}"])


def certify(rng, place):
    flags = {"which": ("best", "last"), "delta": ("0.05", "0", "1", "-1", "nan", "2")}
    flags |= {"data_dir": ("stand-in", "nowhere"), "rounded": ("true", "maybe")}
    flags |= {"models": ("1", "20", "0", "-3", "1.5")}
    return shuffled(rng, of_run(rng, place, flags))


def figures(rng, place):
    # Without words it would draw the figures of this repository.
    return [str(damaged_run(rng, place)), *rng.choice(((), (value(rng),)))]


def records(rng, place):
    name = rng.choice(("r", "a/b", "../x", "/dev/null/x", "é", ".", "", value(rng)))
    return shuffled(rng, [str(damaged_run(rng, place)), name])


def reproduce(rng, place):
    (place.folder / "own.py").write_text(rng.choice(WRONG_FILES))
    names = ("F1", "F2", "F3", "F4", "pixel_mnist", "ptb_word", "all", "F9", "own.py")
    words = rng.sample(names, rng.choice((0, 1, 1, 2))) + [
        f"--scale={rng.choice(('smoke', 'cpu', 'full', value(rng)))}",
        f"--seeds={rng.choice(('1', '2', value(rng)))}",
        f"--workdir={workdir(rng, place)}",
        f"--workers={rng.choice(('1', '1', value(rng)))}",
    ]
    if rng.random() < 0.3:
        results = place.folder / "results"
        words.append(f"--results={rng.choice((results, 'file', value(rng)))}")
    return [*shuffled(rng, words), "--plan"]


def benchmark(rng, place):
    odd = {
        **{"n": ("8", "0", "-1"), "steps": ("5", "0", "-2"), "batch": ("2", "0")},
        **{"seconds": ("0.1", "-1"), "max_seconds": ("1", "-1"), "max_gib": ("1", "0")},
        **{"out": ("out", "file", "file/x", "/proc/x", "a" * 300), "quick": ("true",)},
    }
    (place.folder / "file").write_text("x")
    chosen = rng.sample(sorted(odd), rng.choice((1, 2, 3)))
    words = [f"--{flag}={rng.choice((*odd[flag], value(rng)))}" for flag in chosen]
    return shuffled(rng, words)


COMMANDS = {
    **{run: 55, sweep: 10, predict: 12, export: 4, certify: 4, figures: 4},
    **{records: 4, reproduce: 4, benchmark: 3},
}


def words_of(seed, number, place):
    """The command of a case and its words; its files are in the folder then."""
    rng = random.Random(f"{seed} {number}")
    command = rng.choices(list(COMMANDS), list(COMMANDS.values()))[0]
    words = [word.replace("\0", "") for word in command(rng, place)]
    trains = rng.randrange(TRAINED) == 0
    if not trains and command in (predict, export):  # what is read comes after
        trains = "loads"
    return command.__name__, words, trains


# ---- The process of a case.


class Accepted(BaseException):
    """A run has passed every check and is not to be trained."""


def patched(trains):
    """Makes commands quick and keeps them from what is outside their folder."""
    from experiments.benchmark import measuring
    from experiments.data import download
    from experiments.runs import records
    from experiments.sweep import processes
    from experiments.tasks import base
    from experiments.training import assembly, exporting, prediction

    def first_state(config, task, *others, **options):
        little = config.model.hidden <= 32 and config.model.layers <= 6
        little = little and config.train.batch_size <= 32 and task.time_steps <= 100
        # A length of epochs or steps that is not little ends at the bound on time.
        if not (trains and little and config.train.steps in (1, 2, 3)):
            raise Accepted
        return original(config, task, *others, **options)

    def answers(model, task, batches, **options):
        if trains == "loads":
            list(batches)
            raise Accepted
        return answer(model, task, batches, **options)

    def accepted(*arguments, **options):
        raise Accepted

    def no_network(url, *others):
        raise OSError("no network")

    original, answer = assembly.first_state, prediction._answers
    assembly.first_state, prediction._answers = first_state, answers
    if trains == "loads":
        exporting._export = accepted
    measuring.measure_cell = measuring.measure_scaling = accepted
    processes.spawn = accepted
    download.receive = no_network
    records.RESULTS = pathlib.Path("results").absolute()
    base.EVAL_SEQUENCES, base.EVAL_BATCH = 40, 20


def in_child(command, words, trains, place):
    """Runs a command as `python -m` does; never returns."""
    os.setsid()
    os.chdir(place.folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), number)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb"), "utf-8", "backslashreplace")
    sys.stderr = io.TextIOWrapper(
        os.fdopen(2, "wb"), "utf-8", "backslashreplace", write_through=True
    )
    os.environ |= {"HOME": str(place.folder), "TFDS_DATA_DIR": str(place.folder)}
    os.environ.pop("SVDRNN_DATA", None)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 0
    try:
        patched(trains)
        sys.argv = [command, *words]
        runpy.run_module(f"experiments.{command}", run_name="__main__", alter_sys=True)
    except Accepted:
        code = ACCEPTED
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


class Outcome(NamedTuple):
    """What became of a case: "ran", "accepted", "refused" or what failed."""

    kind: str
    code: int
    error: str
    seconds: float


def outcome(command, words, trains, place):
    """Runs a case in a child process and judges its end."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        in_child(command, words, trains, place)
    late = False
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - began > SECONDS:
            late = True
            os.killpg(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it left behind
    code = os.waitstatus_to_exitcode(ended[1])
    error = read(place, "stderr")
    kind = "no end" if late else judged(command, words, place, code, error)
    return Outcome(kind, code, error, time.monotonic() - began)


def read(place, name):
    path = place.folder / name
    return path.read_text("utf-8", "replace") if path.is_file() else ""


CODES = {
    **{"run": {1, 2, 3, 4}, "sweep": {1, 2, 3, 4, 6}, "predict": {1, 2}},
    "export": {1, 2},
    **{"certify": {1, 2}, "figures": {1, 2}, "records": {1, 2}},
    **{"reproduce": {1, 2, 4}, "benchmark": {1, 2, 4}},
}
LOGGED = re.compile(r"[IWE]\d{4} |warning: |WARNING:absl:")


def judged(command, words, place, code, error):
    """The kind of an end."""
    if code < 0:
        return f"died by {signal.Signals(-code).name}"
    if "Traceback" in error:
        return "traceback"
    if code == ACCEPTED:
        return "accepted"
    lines = [line for line in error.splitlines() if not LOGGED.match(line)]
    if code == 0:
        return "ran" if sane(command, words, place) else "no sane result"
    if code not in CODES[command]:
        return f"exit code {code}"
    # A list of differences is indented behind its line.
    if not lines or not lines[0].startswith("error: "):
        return "no error line"
    if any(not line.startswith("  ") for line in lines[1:]):
        return "more than a line"
    if max(map(len, lines)) > LONGEST:
        return "a line too long"
    return "refused" if named(lines[0], words, place.folder) else "names nothing"


def sane(command, words, place):
    """Whether a run that ended well left what it says."""
    if command != "run" or any(word.startswith("--help") for word in words):
        return True
    if "--check" in words:
        return "  parameters: " in read(place, "stdout")
    folders = [w.partition("=")[2] for w in words if w.startswith("--workdir=")]
    folder = re.sub("^~(?=/|$)", str(place.folder), folders[-1])
    try:
        found = json.loads((place.folder / folder / "result.json").read_text())
    except OSError:
        return False
    numbers = [v for split in found["metrics"].values() for v in split.values()]
    return all(isinstance(number, float | int) for number in numbers)


FILES = (
    "config.json",
    "result.json",
    "metrics.jsonl",
    "checkpoint",
    "certificate.json",
    "sweep.json",
)


ARRAYS = ("inputs", "targets", "lengths", "weights", "series", "input.npz", DATA)


def named(line, words, home):
    """Whether an error names a field, a flag, a file or a word of the case."""
    known = {word.partition("=")[0].lstrip("-") for word in words if word[:1] == "-"}
    known |= {name.removeprefix("config.") for name in known}
    values = {word.partition("=")[2] or word for word in words}
    known |= {form(each) for each in values for form in (str, repr, shlex.quote)}
    known |= {re.sub("^~(?=/|$)", str(home), each) for each in values}
    known |= {os.path.expanduser(each) for each in values}
    known = {each.replace("\n", "\\n")[:100] for each in known}
    known |= {*FILES, *ARRAYS, "config.", "the config has no field"}
    known |= {
        "--workdir",
        "--config",
        "--space",
        "--output",
        "FIGURE",
        "WORKDIR",
        "NAME",
    }
    missing = re.search("--[a-z_]+ must", line)  # a flag that the case left out
    return bool(missing) or any(each in line for each in known if each)


# ---- All of them.


def template(name):
    """Words of a run with two checkpoints."""
    fields = small(name) | {"train.steps": 3, "train.checkpoint_every": 2}
    return [config_of(name), *(f"--config.{k}={v}" for k, v in fields.items())]


TEMPLATES = {"addition": template("addition"), "mnist": template("certificate")}
TEMPLATES |= {"unfinished": TEMPLATES["addition"], "arrays": template("arrays")}


def load():
    """Imports what commands take long to import; nothing of it starts a thread."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    for name in (
        *("training.loop", "training.loading", "training.prediction"),
        *("training.exporting", "tasks.arrays"),
        *("training.certificates", "sweep.worker", "sweep.setup", "sweep.processes"),
        *("reproduce.registry", "reproduce.execution", "reproduce.documents"),
        *("benchmark.measuring", "benchmark.drawing", "benchmark.printing"),
        *("benchmark.peers", "data.builders", "runs.records", "runs.curves"),
        *(
            "tasks.addition",
            "tasks.copying",
            "tasks.pixel_mnist",
            "tasks.penn_treebank",
        ),
        *("tasks.random_labels", "models.feedforward"),
    ):
        importlib.import_module(f"experiments.{name}")


def make_runs(folder):
    """Runs that cases copy."""
    runs = Place(folder, folder)
    inputs = np.random.default_rng(0).normal(size=(40, 5, 2))
    np.savez(folder / DATA, inputs=inputs, targets=np.arange(40) % 2)
    for name, words in TEMPLATES.items():
        place = Place(folder / f"making-{name}", folder)
        place.folder.mkdir()
        shutil.copy(folder / DATA, place.folder)
        made = outcome("run", [*words, f"--workdir={folder / name}"], True, place)
        assert made.kind == "ran", made
    (folder / "unfinished" / "result.json").unlink()
    return runs


def repeat(seed, number, runs, folder):
    """Runs a case: its command, its words and its outcome."""
    place = Place(folder / str(number), runs)
    place.folder.mkdir()
    command, words, trains = words_of(seed, number, place)
    found = outcome(command, words, trains, place)
    return command, words, found, place


def shown(command, words):
    return shlex.join(["python", "-m", f"experiments.{command}", *words])[:1500]


def fuzz(seed, cases, seconds=None, say=print):
    """Runs cases 0 ... cases - 1, as far as the time allows, and counts their ends.

    Returns:
      {command: {kind: count}}, and a list of what failed.
    """
    counts = collections.defaultdict(collections.Counter)
    failures = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="svdrnn-fuzz-") as name:
        folder = pathlib.Path(name)
        (folder / "runs").mkdir()
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        load()
        make_runs(folder / "runs")
        for number in range(cases):
            if seconds is not None and time.monotonic() - began > seconds:
                break
            command, words, found, place = repeat(seed, number, folder / "runs", folder)
            counts[command][found.kind] += 1
            if found.kind not in GOOD:
                failures.append(
                    {
                        **{"case": number, "kind": found.kind, "code": found.code},
                        "command": shown(command, words),
                        "error": found.error[-1500:],
                        "again": f"python -m tests.fuzz --seed={seed} --case={number}",
                    }
                )
                say(f"case {number}: {found.kind}: {failures[-1]['command'][:300]}")
            shutil.rmtree(place.folder, ignore_errors=True)
            if (number + 1) % 100 == 0:
                spent = time.monotonic() - began
                say(
                    f"{number + 1} cases, {len(failures)} failed, {spent:.0f} s",
                    flush=True,
                )
    return counts, failures


GOOD = ("ran", "accepted", "refused")


def table(counts):
    """A line for each command."""
    others = sorted({kind for each in counts.values() for kind in each} - set(GOOD))
    kinds = [*GOOD, *others]
    lines = [("command", "cases", *kinds)]
    for command, found in sorted(counts.items()):
        lines.append((command, sum(found.values()), *(found[kind] for kind in kinds)))
    totals = [sum(column) for column in list(zip(*lines[1:], strict=True))[1:]]
    lines.append(("all", *totals))
    widths = [
        max(len(str(each)) for each in column) for column in zip(*lines, strict=True)
    ]
    return "\n".join(
        "  ".join(
            str(each).rjust(width) for each, width in zip(line, widths, strict=True)
        )
        for line in lines
    )


def show_case(seed, number):
    """One case, with all that it prints."""
    with tempfile.TemporaryDirectory(prefix="svdrnn-fuzz-") as name:
        folder = pathlib.Path(name)
        (folder / "runs").mkdir()
        load()
        make_runs(folder / "runs")
        command, words, found, place = repeat(seed, number, folder / "runs", folder)
        print(shown(command, words))
        print(read(place, "stdout")[-2000:])
        print(found.error)
        print(f"{found.kind}, exit code {found.code}, {found.seconds:.1f} s")
    return found.kind in GOOD


def main():
    """Does what the flags say; exit code 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this one and show it")
    parser.add_argument("--seconds", type=float, help="begin no case after so long")
    parser.add_argument("--out", help="file for a summary in JSON")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    warnings.filterwarnings("ignore", message=r".*os\.fork\(\)")
    if arguments.case is not None:
        sys.exit(0 if show_case(arguments.seed, arguments.case) else 1)
    counts, failures = fuzz(arguments.seed, arguments.cases, arguments.seconds)
    print(table(counts))
    for each in failures:
        print(f"\n{each['kind']}: {each['command']}\n  {each['again']}")
    if arguments.out:
        summary = {
            "seed": arguments.seed,
            "cases": sum(sum(each.values()) for each in counts.values()),
            "ends": {name: dict(each) for name, each in counts.items()},
            "failures": failures,
        }
        pathlib.Path(arguments.out).write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
