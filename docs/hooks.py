"""What the pages link to outside of docs/, for mkdocs.

The links work in a checkout as they are: `../CHANGELOG.md`, `../experiments/...`. In
the site each of these files lies at its path from the root of the repository, and the
links are rewritten to that. Nothing is copied into docs/.
"""

import pathlib
import posixpath
import re

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
