"""The table of all fields of a config, from `configs/` and its comments. No JAX.

What a field means stands once, in the comment at its place: behind it, or in the lines
above it.
"""

import ast
import importlib
import io
import pathlib
import tokenize
from typing import Any

from experiments import models
from experiments.reproduce import markdown
from experiments.runs import identity

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def table() -> str:
    """Every field with its default, what it means, and what reads it."""
    rows = []
    for field, value, meaning in fields("common"):
        rows.append([f"`{field}`", _default(value), meaning, _readers(field)])
        if field == "task.name":
            rows += [
                [f"`{field}`", _default(value), meaning, f"`{name}.py`"]
                for name in _names()
                for field, value, meaning in fields(name)
                if field.startswith("task.") and field != "task.name"
            ]
    return markdown.table(["field", "default", "meaning", "read by"], rows)


def _readers(field: str) -> str:
    """The models, or the value of another field, with which a field is read."""
    if field in identity.READ_WITH:
        other, value = identity.READ_WITH[field]
        return f"`{other}={value}`"
    if field in identity.READ_UNLESS:
        other, value = identity.READ_UNLESS[field]
        return f"`{other}` other than `{value}`"
    readers = [name for name, model in models.MODELS.items() if field in model.reads]
    if not readers or len(readers) == len(models.MODELS):
        return "all"
    others = [name for name in models.MODELS if name not in readers]
    if len(others) < len(readers) / 2:
        return f"all but {', '.join(others)}"
    return ", ".join(readers)


def fields(name: str) -> list[tuple[str, Any, str]]:
    """(field, value, comment) of what a file in `configs/` sets, in its order.

    Of a field that is set twice the first comment counts.
    """
    source = (CONFIGS / f"{name}.py").read_text()
    comments = _comments(source)
    module = importlib.import_module(f"configs.{name}")
    values = identity.flatten(identity.to_dict(module.get_config()))
    values |= dict.fromkeys(identity.PLACES, "")  # they depend on the machine
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign):
            continue
        field = ast.unparse(node.targets[0]).removeprefix("config.")
        if field in values:
            found.setdefault(field, _meaning(node, comments))
    return [(field, values[field], found[field]) for field in found]


def _meaning(node: ast.Assign, comments: dict[int, tuple[bool, str]]) -> str:
    """The comment lines above a statement, then the comment behind it."""
    above: list[str] = []
    line = node.lineno - 1
    while comments.get(line, (False, ""))[0]:
        above.insert(0, comments[line][1])
        line -= 1
    behind = comments.get(node.end_lineno or node.lineno, (True, ""))
    return " ".join([*above, *([] if behind[0] else [behind[1]])])


def _comments(source: str) -> dict[int, tuple[bool, str]]:
    """{line: (whether the comment has the line for itself, its text)}."""
    return {
        token.start[0]: (
            token.line.strip().startswith("#"),
            token.string.lstrip("# ").strip(),
        )
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }


def _names() -> list[str]:
    """The files in `configs/` that are those of tasks."""
    names = sorted(path.stem for path in CONFIGS.glob("*.py"))
    return [name for name in names if name not in ("__init__", "common")]


def _default(value: Any) -> str:
    return f"`{value}`" if value != "" else ""
