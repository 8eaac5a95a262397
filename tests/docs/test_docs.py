"""README, docs and the like: blocks of code run, commands parse, links resolve."""

import functools
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from experiments import models, tasks

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
)
MODULES = (
    *("benchmark", "certify", "export", "figures", "predict", "records"),
    *("reproduce", "run", "sets", "sweep"),
)


def text(page):
    return (ROOT / page).read_text()


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.DOTALL | re.M)


def outside(page):
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.M)


def test_readme_is_a_first_page():
    assert len(text("README.md").splitlines()) <= 150


# ---- Blocks of Python.


@pytest.fixture
def light(monkeypatch, tmp_path):
    """Quick compilation; files that a block writes go to a folder of their own."""
    monkeypatch.chdir(tmp_path)
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


LONG = (
    *("docs/guide.md", "docs/constraints.md", "docs/experiments.md"),
    *("docs/index.md", "docs/generalization.md", "docs/own_data.md"),
)


@pytest.fixture
def registries():
    """What a page adds to tasks and models is gone after it."""
    kept = [(each, dict(each)) for each in (tasks.TASKS, models.MODELS)]
    yield
    for registry, content in kept:
        registry.clear()
        registry.update(content)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in LONG else [])
        for page in PAGES
        if blocks(page, "python")
    ],
)
def test_blocks_of_code_run_in_order(page, light, registries, tmp_path):
    program = tmp_path / f"{page.replace('/', '_')}.py"
    program.write_text("\n\n".join(blocks(page, "python")))
    runpy.run_path(str(program), run_name="__main__")


def test_there_are_blocks_to_run():
    with_blocks = {page for page in PAGES if blocks(page, "python")}
    assert with_blocks >= {"README.md", "docs/guide.md", "docs/index.md"}


# ---- Commands.


def commands(page):
    """(module, arguments) of every `python -m experiments.X ...` of the page.

    `sbatch examples/slurm/X.sh ...` passes its own on to that.

    Of blocks and of spans of code. Words in capitals stand for something of the
    reader's, `...` for anything.
    """
    spans = re.findall(r"`([^`]+)`", outside(page))
    lines = [span.replace("\n", " ") for span in spans]
    for block in blocks(page, "sh"):
        lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        for part in line.split("&&"):
            found = re.search(
                r"(?:python -m experiments\.|slurm/)(\w+)(?:\.sh)?(?=\s|$)(.*)", part
            )
            if found:
                words = shlex.split(found[2], comments=True)
                yield found[1], [word for word in words if "..." not in word]


@functools.cache
def help_of(module):
    """What --helpfull prints."""
    words = [sys.executable, "-m", f"experiments.{module}", "--helpfull"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout


def parse_config(arguments):
    """The config of --config=FILE and --config.FIELD=VALUE, as absl parses them."""
    values = flags.FlagValues()
    argv = ["command", *(a for a in arguments if a.startswith("--config"))]
    argv[1] = argv[1].replace("--config=", f"--config={ROOT}/")
    # The name of a model stands for each of them.
    argv[1] = argv[1].removesuffix(":NAME")
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=argv
    )
    values(argv)
    return holder.value


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_commands_are_ones_that_there_are(module):
    """Of a module all of them, because each process that prints help takes seconds."""
    of_module = [
        (page, words)
        for page in PAGES
        for name, words in commands(page)
        if name == module
    ]
    assert of_module
    for page, words in of_module:
        try:
            check_command(module, words)
        except Exception as error:
            raise AssertionError(f"{page}: {module} {' '.join(words)}") from error


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_all_flags_of_a_command_are_in_its_help(module):
    """--help leaves out those of other modules, which --helpfull lists by module."""
    listed = re.findall(r"^(\S+):\n(?=  --)", help_of(module), re.MULTILINE)
    assert listed
    assert [name for name in listed if name.startswith("experiments.")] == []


def test_commands_have_known_modules():
    named = {name for page in PAGES for name, _ in commands(page)}
    assert named <= set(MODULES)


def check_command(module, arguments):
    for argument in arguments:
        if argument.startswith("--config"):
            continue
        if argument.startswith("--"):
            name, _, value = argument.removeprefix("--").partition("=")
            assert re.search(rf"--(\[no\])?{name}\b", help_of(module)), argument
            if value.startswith("configs/"):
                assert (ROOT / value).is_file(), argument
        elif not argument.isupper() and "/" not in argument:
            assert argument in help_of(module), argument
    if any(re.match(r"--config=(?!FILE$)", argument) for argument in arguments):
        assert parse_config(arguments).task.name


def test_commands_are_found_and_refused():
    found = list(commands("docs/sweeps.md"))
    assert [arguments[-1] for _, arguments in found] == [
        "--workers=2",
        "--workdir=runs/addition_sweep",
        "--storage=postgresql://USER@HOST/DATABASE",
    ]
    with pytest.raises(AttributeError, match="lenght"):
        parse_config(["--config=configs/addition.py", "--config.task.lenght=3"])
    with pytest.raises(AssertionError, match="--worker_count"):
        check_command("sweep", ["--worker_count=2"])


def test_readme_sets_up_as_ci_does():
    setup, test = (b.strip() for b in blocks("README.md", "sh")[:2])
    install = "python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt"
    assert setup.startswith(f"{install} && .venv/bin/python -m experiments.run ")
    assert test == f"{install} && .venv/bin/python -m pytest -q"
    ci = ROOT / ".ci" / "run"
    if ci.exists():  # not in an sdist
        assert test in ci.read_text()


# ---- Links.


def anchors(page):
    """The headings of a page as anchors."""
    heads = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text(page), flags=re.S), re.M
    )
    plain = (re.sub(r"[^\w\- ]", "", head.lower()).strip() for head in heads)
    return {head.replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", PAGES)
def test_links_between_files_resolve(page):
    for link in re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`]*`", "", outside(page))):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT)), link


# ---- The reference.


def test_the_reference_has_every_public_module():
    there = {
        ".".join(path.relative_to(ROOT / "svdrnn").with_suffix("").parts)
        for path in (ROOT / "svdrnn").rglob("*.py")
        if not path.stem.startswith("_")
    }
    named = {
        name
        for page in PAGES
        for name in re.findall(r"^::: svdrnn\.([\w.]+)$", text(page), re.M)
    }
    assert named == there - {"checks"}  # of arguments; nobody calls it from outside
