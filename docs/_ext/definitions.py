"""Every setting, stat, signal and command that a table or a heading defines is a target, and its name links to it everywhere.

The pages stay plain Markdown. Other projects refer to the names with the roles that Scrapy's plugins use:
``:setting:`STATE_INTERVAL```, ``:stat:`state/checkpoints```, ``:signal:`checkpoint_stored```, ``:command:`state items```.

- a table whose first column is called ``name``, ``stat`` or ``signal`` defines what is in that column;
- the page ``command`` defines each verb that a heading of the second level names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx

#: The first column's heading -> the kind of name below it
KINDS = {"name": "setting", "stat": "stat", "signal": "signal"}
_VERBS = re.compile(r"[a-z-]+(, [a-z-]+)*")


def _in_tables(document: nodes.document) -> Iterator[tuple[str, str, nodes.Element]]:
    for table in document.findall(nodes.table):
        heading = table.next_node(nodes.entry).astext()
        if heading in KINDS:
            for row in table.next_node(nodes.tbody).findall(nodes.row):
                for literal in row.children[0].findall(nodes.literal):
                    yield KINDS[heading], literal.astext(), literal


def _in_headings(page: nodes.Element) -> Iterator[tuple[str, str, nodes.Element]]:
    yield "command", "state", page
    for section in page.children:
        if isinstance(section, nodes.section) and _VERBS.fullmatch(title := section.next_node(nodes.title).astext()):
            for verb in title.split(", "):
                yield "command", f"state {verb}", section


def define(app: Sphinx, document: nodes.document) -> None:
    """Register what *document* defines. If two pages have a setting in a table, the page of the settings defines it."""
    domain = app.env.get_domain("std")
    page = app.env.current_document.docname
    definitions = list(_in_tables(document))
    if page == "command":
        definitions += _in_headings(document.children[0])
    for kind, word, node in definitions:
        if (kind, word) not in domain.objects or page == "settings":
            node["ids"].append(label := f"{kind}-{nodes.make_id(word) or word}")
            domain.objects[kind, word] = page, label


def link(app: Sphinx, document: nodes.document, page: str) -> None:
    """Make every literal that is a defined name a link to its definition."""
    objects = app.env.get_domain("std").objects
    places = {word: place for (kind, word), place in objects.items() if kind in KINDS.values()}
    for literal in list(document.findall(nodes.literal)):
        where, label = places.get(literal.astext(), ("", ""))
        if where and label not in literal["ids"] and not isinstance(literal.parent, nodes.reference):
            uri = f"{app.builder.get_relative_uri(page, where)}#{label}"
            reference = nodes.reference("", "", internal=True, refuri=uri)
            literal.replace_self(reference)
            reference += literal


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("doctree-read", define)
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
