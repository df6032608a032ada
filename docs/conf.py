"""Sphinx's settings: ``make docs`` builds the site in docs/_build/html. Names and addresses come from pyproject.toml."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(ROOT)]
_PYPROJECT = (ROOT / "pyproject.toml").read_text()

project = re.search(r'^name = "([^"]+)"', _PYPROJECT, re.MULTILINE)[1]
release = version = re.search(r'^__version__ = "([^"]+)"', (ROOT / "scrapy_state/__init__.py").read_text(), re.MULTILINE)[1]
html_baseurl = re.search(r'^Documentation = "([^"]+)"', _PYPROJECT, re.MULTILINE)[1]
copyright = "the scrapy_state developers"

extensions = ["myst_parser", "sphinx_scrapy", "sphinx_rtd_dark_mode", "definitions"]
exclude_patterns = ["_build"]
html_theme = "sphinx_rtd_theme"
html_title = f"{project} {release}"
default_dark_mode = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them
# A machine without network can't load the inventories of Python's and Scrapy's documentation.
scrapy_intersphinx_disable = [] if os.environ.get("READTHEDOCS") else ["python", "scrapy"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
# Output of commands, of logs, and cut-out lines that no lexer knows
highlight_language = "none"


def _list_other_pages(app, docname, source):
    """In the list of contents, put all pages that it does not name where it says OTHER PAGES."""
    if docname == "index":
        named = {"index", *re.findall(r"^[\w-]+$", source[0], re.MULTILINE)}
        source[0] = source[0].replace("OTHER PAGES", "\n".join(sorted(app.env.found_docs - named)))


def setup(app):
    app.connect("source-read", _list_other_pages)
