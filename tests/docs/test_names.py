"""The documentation has every setting, stat, signal, command, exception and finish reason, and no other."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT, anchors, blocks, pages

from scrapy_state import exceptions, signals
from scrapy_state.commands.options import OPTIONS
from scrapy_state.commands.state import VERBS
from scrapy_state.model.setting_names import KNOWN
from scrapy_state.model.web_docs import SITE, docs_url

TREES = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "scrapy_state").rglob("*.py"))}


def first_column(heading: str) -> set[str]:
    """Return what is marked as code in the first column of every table whose first heading is *heading*."""
    found: set[str] = set()
    for page in pages():
        for table in re.findall(rf"^ *\| {heading} \|.*\n(?: *\|.*\n)+", page.read_text(), re.MULTILINE):
            for row in table.splitlines()[2:]:
                found |= set(re.findall(r"`([^`]+)`", row.split("|")[1]))
    return found


def calls(*names: str) -> Iterator[ast.Call]:
    """Yield each call of a function or method of one of these names in the package."""
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in names:
                yield node


def texts(node: ast.AST) -> list[str]:
    """Return the constant texts in *node*; an f-string counts up to its first value, followed by an ellipsis."""
    if isinstance(node, ast.JoinedStr):
        first = node.values[0]
        return [f"{first.value}…"] if isinstance(first, ast.Constant) else ["…"]
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    return [text for child in ast.iter_child_nodes(node) for text in texts(child)]


def test_settings() -> None:
    """Every setting has a row in a table, and every row is a setting."""
    documented = {name for name in first_column("name") if name.startswith("STATE")} - {"STATE_REDIS_…"}
    assert documented == set(KNOWN)


def test_the_known_settings_are_all() -> None:
    """The package reads no STATE_* setting that it does not know, and knows none that it does not read."""
    read = {text for path, tree in TREES.items() if path.name != "setting_names.py" for text in texts(tree)}
    read = {text for text in read if re.fullmatch(r"STATE(_[A-Z]+)*", text)}
    assert read <= set(KNOWN)
    assert set(KNOWN) - read == set()


def test_stats() -> None:
    """Every stat that is written has a row in a table, and every ``state/…`` in a table is written."""
    written = {
        text for call in calls("set_value", "inc_value", "max_value", "min_value") if call.args for text in texts(call.args[0])
    }
    ours = {text for text in written if text.startswith("state/")}
    prefixes = tuple(text.removesuffix("…") for text in ours if text.endswith("…"))
    exact = {text for text in ours if not text.endswith("…")}
    assert len(exact) > 20
    documented = {name for name in first_column("stat") if name.startswith("state/")}
    assert exact <= documented
    assert {name for name in documented - exact if not name.startswith(prefixes)} == set()


def test_signals() -> None:
    """Every signal has a row in the reference, and every row is a signal."""
    assert first_column("signal") == {name for name in vars(signals) if not name.startswith("_")}


def test_exceptions() -> None:
    """Every exception has a row in the reference, with the classes that it is derived from."""
    text = (ROOT / "docs" / "reference.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text.partition("## Exceptions")[2], re.MULTILINE)
    classes = {name: cls for name, cls in vars(exceptions).items() if isinstance(cls, type)}
    assert {name: re.findall(r"`(\w+)`", bases) for name, bases in rows} == {
        name: [base.__name__ for base in cls.__bases__] for name, cls in classes.items()
    }


def test_verbs() -> None:
    """Every verb of ``scrapy state`` has a row in the table and a section, and there is no other."""
    assert first_column("verb") == set(VERBS)
    text = (ROOT / "docs" / "command.md").read_text()
    headings = [heading for heading in re.findall(r"^## (.*)$", text, re.MULTILINE) if heading != "Recipes"]
    assert {verb for heading in headings for verb in heading.split(", ")} == set(VERBS)


def test_options() -> None:
    """Every option of every verb is on the page of the command."""
    text = (ROOT / "docs" / "command.md").read_text()
    for name in VERBS:
        parser = argparse.ArgumentParser(add_help=False)
        OPTIONS[name](parser)
        for option in parser._option_string_actions:
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{name} {option}"


def test_finish_reasons() -> None:
    """Every finish reason of ours is in the log's page."""
    reasons = {text for tree in TREES.values() for text in texts(tree) if re.fullmatch(r"state_\w+_failed", text)}
    assert len(reasons) > 5
    text = (ROOT / "docs" / "log.md").read_text()
    assert {reason for reason in {*reasons, "state_refused", "state_conflict"} if f"`{reason}`" not in text} == set()


def links(page: Path) -> list[tuple[str, str]]:
    """Return the links of *page* to other pages and sections, as file name and anchor."""
    text = page.read_text()
    for each in blocks(str(page.relative_to(ROOT))):
        text = text.replace(each.text, "")
    found = re.findall(r"\]\(((?!https?://)[^)#\s]*)(?:#([^)]*))?\)", text)
    return [(target, anchor) for target, anchor in found if target or anchor]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name if page.parent.name != "sample_project" else "sample")
def test_links(page: Path) -> None:
    """Every link leads to a file that is there, and to a heading in it."""
    for target, anchor in links(page):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def test_messages_lead_to_the_docs() -> None:
    """No message names a file of the docs, which users of the wheel don't have. Each URL leads to a page and a section."""
    found = list(calls("docs_url"))
    assert len(found) >= 4
    for call in found:
        page, *section = [ast.literal_eval(argument) for argument in call.args]
        path = ROOT / "docs" / f"{page}.md"
        assert path.exists(), page
        assert not section or section[0] in anchors(path), docs_url(page, *section)
    for path, tree in TREES.items():
        for text in (text for text in texts(tree) if "docs/" in text and "/docs/" not in text):
            assert text in docstrings(tree), f"{path}: {text}"


def docstrings(tree: ast.AST) -> set[Any]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.body[0].value.value
        for node in ast.walk(tree)
        if isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    }  # fmt: skip


def test_one_name_one_address() -> None:
    """The distribution's name and the site's address are those of pyproject.toml, wherever they are written."""
    project = (ROOT / "pyproject.toml").read_text()
    name = re.search(r'^name = "([^"]+)"', project, re.MULTILINE)
    assert name is not None
    assert f'Documentation = "{SITE}"' in project
    for path in [*pages(), *TREES, ROOT / "pyproject.toml", ROOT / "CHANGELOG.md"]:
        text = path.read_text()
        for address in re.findall(r"https://[\w.-]+\.readthedocs\.io/\S*", text):
            assert address.startswith(SITE), f"{path}: {address}"
        for installed in re.findall(r"pip install '?(scrapy[\w-]*)", text):
            assert installed == name[1], f"{path}: {installed}"
    assert (ROOT / "README.md").read_text().startswith(f"# {name[1]}\n")
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
