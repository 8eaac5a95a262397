"""The experiments as a house: no circle among the files, no arrow into them."""

import ast
import graphlib
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def modules(package):
    """{module: path} of all files of a package."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source, known):
    """The known modules that a file imports, wherever in it; no relative imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "one way to import: from package import module"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in known else node.module)
    return found & set(known)


def graph_of(files, known):
    return {name: imports(text, known) - {name} for name, text in files.items()}


def test_no_circle_among_the_experiments():
    known = modules("experiments")
    files = {name: path.read_text() for name, path in known.items()}
    graph = graph_of(files, known)
    assert graph["experiments.run"] >= {
        *("experiments.training.loop", "experiments.runs.identity")
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names it


def test_a_circle_would_be_seen():
    files = {"a": "from b import c", "b.c": "def f():\n    import a", "b": ""}
    graph = graph_of(files, files)
    assert graph == {"a": {"b.c"}, "b.c": {"a"}, "b": set()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        assert set(error.args[1]) == {"a", "b.c"}
    else:
        raise AssertionError("not seen")


def test_stages_import_only_what_stands_below_them():
    order = "data tasks models runs training sweep reproduce benchmark".split()
    below = {name: set(order[:i]) for i, name in enumerate(order)}
    below["sweep"] = below["reproduce"] = below["benchmark"] = set(order[:5])
    known = modules("experiments")
    for name, path in known.items():
        stage = name.split(".")[1] if "." in name else ""
        if stage not in order:
            continue
        for other in imports(path.read_text(), known):
            above = other.split(".")[1] if "." in other else ""
            assert above not in order or above in below[stage] | {stage}, (name, other)


def test_the_library_does_not_import_the_experiments():
    known = modules("svdrnn") | modules("experiments") | modules("configs")
    for name, path in modules("svdrnn").items():
        for other in imports(path.read_text(), known):
            assert other.startswith("svdrnn"), (name, other)


def test_importing_the_library_loads_all_of_it_but_the_certificate():
    known = modules("svdrnn")
    files = {name: path.read_text() for name, path in known.items()}
    graph = graph_of(files, known)
    loaded, found = set(), {"svdrnn"}
    while found - loaded:
        name = (found - loaded).pop()
        loaded.add(name)
        found |= graph[name]
    certificate = {"certificate", "certificate.certification"}
    certificate |= {"certificate.generalization", "certificate.rounding"}
    assert known.keys() - loaded == {f"svdrnn.{name}" for name in certificate}
