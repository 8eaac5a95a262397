"""What the pages link to outside of docs/, and their formulas, for mkdocs.

The links work in a checkout as they are: `../CHANGELOG.md`, `../experiments/...`. In
the site each of these files lies at its path from the root of the repository, and the
links are rewritten to that. Nothing is copied into docs/.

Formulas are set when the site is built, as MathML, which a browser draws by itself.
"""

import html
import pathlib
import posixpath
import re
from xml.etree import ElementTree

from latex2mathml import converter
from markdown import extensions, treeprocessors
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")  # of the navigation

_LINK = re.compile(r"(\]\()([^()\s#]+)(#[^()\s]*)?(\))")


def _targets(text: str, folder: str) -> set[str]:
    """Files outside of docs/ that a text in a folder of the repository links to."""
    found = (_resolved(match[2], folder) for match in _LINK.finditer(text))
    return {path for path in found if path and not path.startswith("docs/")}


def _resolved(link: str, folder: str) -> str | None:
    """The link's path from the root, or None where there is no such file."""
    path = posixpath.normpath(posixpath.join(folder, link))
    return path if "://" not in link and (ROOT / path).is_file() else None


def on_config(config):
    """Has the formulas of pages and of docstrings set."""
    config.markdown_extensions.append(_Formulas())
    return config


def on_files(files, config):
    """Adds the files, and those that added pages link to."""
    todo = set(PAGES)
    for file in files.documentation_pages():
        folder = posixpath.join("docs", posixpath.dirname(file.src_uri))
        todo |= _targets(pathlib.Path(file.abs_src_path).read_text(), folder)
    while todo:
        path = todo.pop()
        if path in files.src_uris:
            continue
        source = str(ROOT / path)
        files.append(File.generated(config, path, abs_src_path=source))
        if path.endswith(".md"):
            todo |= _targets((ROOT / path).read_text(), posixpath.dirname(path))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites links of a page to where the files lie in the site."""
    source = pathlib.Path(page.file.abs_src_path).relative_to(ROOT).as_posix()

    def rewritten(match):
        path = _resolved(match[2], posixpath.dirname(source))
        if path is None:
            return match[0]
        place = path.removeprefix("docs/")
        link = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{link}{match[3] or ''}{match[4]}"

    return _LINK.sub(rewritten, markdown)


# ---- Formulas.


class _Formulas(extensions.Extension):
    """Sets what pymdownx.arithmatex marks as a formula."""

    def extendMarkdown(self, md):  # noqa: N802
        # Ahead of `toc`, which takes headings as they are then.
        md.treeprocessors.register(_Setter(md), "formulas", 15)


class _Setter(treeprocessors.Treeprocessor):
    def run(self, root):
        for element in root.iter():
            if element.get("class") == "arithmatex":
                block = element.tag == "div"
                tex = element.text.strip()[2:-2]  # without \( \) or \[ \]
                element.text = None
                element.append(mathml(html.unescape(tex) if block else tex, block))


def mathml(tex: str, block: bool) -> ElementTree.Element:
    """A formula as an element `math`.

    Raises:
      ValueError: for a command of TeX that the converter does not know.
    """
    display = "block" if block else "inline"
    math = ElementTree.fromstring(converter.convert(tex, xmlns="", display=display))
    if "\\" in "".join(math.itertext()):
        raise ValueError(f"a formula must be one that can be set, got {tex!r}")
    for row in list(math.iter()):
        for place, element in reversed(list(enumerate(row))):
            if element.tag == "mo" and element.text in ("|", "‖"):
                _close_bar(element)
            elif row.tag in ("mrow", "mtd") and _is_name(element):
                _set_apart(row, place)
    return math


def _close_bar(element):
    """No space around a bar; one that is no stretched fence is as high as a letter."""
    element.attrib |= {"lspace": "0", "rspace": "0"}
    if element.get("fence") is None:
        element.set("stretchy", "false")


def _is_name(element):
    """Whether it is ln, max, ... of several letters, or one with an index."""
    name = element[0] if element.tag in ("msub", "msup") else element
    if name.tag not in ("mi", "mo") or len(name.text) < 2 or not name.text.isalpha():
        return False
    if name.tag == "mo":
        name.attrib |= {"lspace": "0", "rspace": "0"}
    return True


def _set_apart(row, place):
    """The space around ln, max, ... that TeX leaves: none beside an operator or `(`."""
    space = ElementTree.Element("mspace", width="0.17em")
    following = row[place + 1 : place + 2]
    if following and following[0].tag != "mspace" and following[0].text != "(":
        row.insert(place + 1, space)
    if place and row[place - 1].tag != "mo":
        row.insert(place, space)
