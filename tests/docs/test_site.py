"""The site as it is built: formulas are set, nothing is fetched, names stand once.

CI runs all of this file, the slow ones too, in the place of building the site.
"""

import collections
import functools
import html.parser
import http.server
import importlib
import inspect
import pathlib
import re
import runpy
import subprocess
import sys
import threading
import types
from xml.etree import ElementTree

import pytest

import svdrnn
from tests.docs import browser

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tools():
    """Skips where what builds the site is not installed."""
    for name in ("latex2mathml", "material", "mkdocs", "mkdocstrings"):
        pytest.importorskip(name, reason=f"without {name} there is no site")


@pytest.fixture(scope="module")
def site(tools, tmp_path_factory):
    """The folder of the site, and its pages."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, sorted(folder.rglob("*.html"))


class Reader(html.parser.HTMLParser):
    """Text outside of code, addresses of what is loaded, and identities of a page."""

    def __init__(self, text):
        super().__init__()
        self.words, self.loaded, self.ids, self._code = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self._code += tag in ("code", "script", "style")
        source = {"script": "src", "img": "src", "link": "href"}.get(tag)
        if source in values:
            self.loaded.append(values[source])
        if "id" in values:
            self.ids.append(values["id"])

    def handle_endtag(self, tag):
        self._code -= tag in ("code", "script", "style")

    def handle_data(self, data):
        if not self._code:
            self.words.append(data)


@pytest.mark.slow
def test_formulas_are_set_and_nothing_is_fetched(site):
    folder, pages = site
    formulas = collections.Counter()
    for page in pages:
        text = page.read_text()
        name = page.relative_to(folder).as_posix()
        read = Reader(text)
        assert not re.search(r"\\[(\[a-zA-Z]", " ".join(read.words)), name
        for address in read.loaded:
            assert not re.match(r"(?:https?:)?//", address), (name, address)
        for formula in re.findall(r"<math.*?</math>", text, re.DOTALL):
            math = ElementTree.fromstring(formula)
            assert "\\" not in "".join(math.itertext()), (name, formula)
            formulas[name] += 1
    assert formulas["mathematics/index.html"] > 300
    assert formulas["index.html"] and formulas["reference/matrices/index.html"]


def test_formulas_look_as_tex_sets_them(tools):
    mathml = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["mathml"]

    def shown(tex):
        text = ElementTree.tostring(mathml(tex, block=False), encoding="unicode")
        return text.removeprefix('<math display="inline"><mrow>')

    assert "<mspace" in shown(r"\ln N") and "<mspace" not in shown(r"\ln(N)")
    assert "<mspace" in shown(r"\log_2 T")
    assert shown(r"r \tanh(x)").count("<mspace") == 1
    assert re.search(r"<msup><mi>tanh</mi><mn>2</mn></msup>", shown(r"\tanh^2 x"))
    assert shown(r"|x|").count('lspace="0"') == 2
    assert 'stretchy="true"' in shown(r"\left| \frac12 \right|")
    assert shown(r"\begin{bmatrix} 1 & 0 \end{bmatrix}").count("<mtd") == 2
    with pytest.raises(ValueError, match=r"a formula must be .* got '\\\\wrong x'"):
        mathml(r"\wrong x", block=True)


# ---- The reference.


def documented(folder):
    """The names of `svdrnn` that head a part of the reference, with how often."""
    heads = collections.Counter()
    for page in (folder / "reference").rglob("*.html"):
        heads.update(i for i in Reader(page.read_text()).ids if i.startswith("svdrnn."))
    return heads


def public(module):
    """What is public of a module: what it defines, has a docstring and no `_`."""
    return {
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if not name.startswith(("_", "check_"))
        if inspect.isfunction(inspect.unwrap(value)) or inspect.isclass(value)
        if value.__module__ == module.__name__
    }


@pytest.mark.slow
def test_the_reference_has_each_public_name_once(site):
    heads = documented(site[0])
    modules = [name for name in heads if _is_module(name)]
    wanted = set().union(*(public(importlib.import_module(name)) for name in modules))
    for name in svdrnn.__all__:
        value = getattr(svdrnn, name)
        if isinstance(value, types.ModuleType):
            assert value is svdrnn.checks or value.__name__ in modules
        elif name != "__version__":
            assert f"{value.__module__}.{name}" in wanted
    top = {name for name in heads if name.rpartition(".")[0] in modules}
    assert top - set(modules) == wanted
    assert set(heads.values()) == {1}
    members = heads.keys() - top - set(modules)
    assert {name.rpartition(".")[0] for name in members} <= top
    assert not [name for name in heads if re.search(r"\._(?!_call__$)", name)]
    assert "svdrnn.rnn.TransitionRNN.__call__" in members


def _is_module(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@pytest.mark.slow
def test_the_reference_begins_with_what_a_user_meets_first(site):
    page = site[0] / "reference" / "layers" / "index.html"
    names = [i for i in Reader(page.read_text()).ids if i.startswith("svdrnn.")]
    assert names[:2] == ["svdrnn.rnn", "svdrnn.rnn.SpectralRNN"]


@pytest.mark.slow
def test_signatures_are_those_of_the_constructors(site):
    page = site[0] / "reference" / "layers" / "index.html"
    text = re.sub(r"<[^>]+>", "", page.read_text())
    assert re.search(r"SpectralRNN\([^)]*\breflectors,[^)]*activation_every=1", text)


# ---- In a browser.


@pytest.mark.slow
def test_pages_in_a_browser(site, tmp_path):
    command = browser.find()
    if command is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)}")
    folder, pages = site
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with browser.started(command, tmp_path) as page:
            for path in pages:
                name = path.relative_to(folder).as_posix()
                page.open(f"{address}/{name}")
                assert page.value("document.body.innerText.match(/\\\\[(\\[]/)") is None
                assert page.value(EMPTY) == 0, name
                assert page.value(WIDE) == [], name
                expected = ["404.html"] if name == "404.html" else []
                assert [p for p in page.problems() if p not in expected] == [], name
        server.shutdown()


# Formulas without an area, and blocks of at most 88 columns that leave their box.
EMPTY = "[...document.querySelectorAll('math')].filter(m => !m.clientWidth).length"
WIDE = """[...document.querySelectorAll('pre > code')]
    .filter(c => c.scrollWidth > c.clientWidth)
    .filter(c => Math.max(...c.innerText.split('\\n').map(l => l.length)) <= 88)
    .map(c => c.innerText.slice(0, 88))"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass
