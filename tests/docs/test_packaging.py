"""What the files around the package say of it, each thing once or the same."""

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from svdrnn import _version

ROOT = pathlib.Path(__file__).parents[2]
APART = {"aeon"}  # groups of one command, which requirements.txt leaves out


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def installed():
    """{name: requirement} of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0]]
    return {canonicalize_name(each.name): each for each in found}


def wanted(project):
    """The library's dependencies and those of its groups, but for the library."""
    groups = project["project"]["optional-dependencies"]
    assert groups.keys() >= APART
    lines = [line for name in groups.keys() - APART for line in groups[name]]
    lines += project["project"]["dependencies"]
    return [r for r in map(Requirement, lines) if r.name != "svdrnn"]


def test_requirements_are_those_of_the_groups(project, installed):
    names = {canonicalize_name(each.name) for each in wanted(project)}
    assert names == set(installed)


def lowest(specifier: SpecifierSet) -> Version:
    """The lowest version that a specifier names, of `==` or `>=`."""
    (version,) = (Version(s.version) for s in specifier if s.operator in ("==", ">="))
    return version


def test_requirements_are_within_the_bounds_of_the_groups(project, installed):
    for each in wanted(project):
        version = lowest(installed[canonicalize_name(each.name)].specifier)
        assert version in each.specifier, f"{each} does not take {version}"
        assert lowest(each.specifier) <= version


def test_versions_are_one():
    version = _version.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (\S+)$", citation, re.M)[1] == version
    date = re.search(r'^date-released: "(\S+)"$', citation, re.M)[1]
    assert f"## {version}, {date}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_sdist_takes_every_folder_that_tests_read():
    manifest = (ROOT / "MANIFEST.in").read_text()
    for folder in ("configs", "docs", "experiments", "tests"):
        assert f"graft {folder}\n" in manifest
    for line in re.findall(r"^include (.*)$", manifest, re.M):
        for name in line.split():
            assert (ROOT / name).is_file(), name
