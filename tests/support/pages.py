"""Checks of an HTML page: that it is complete and loads nothing, and what a browser says about it."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_VOID = {"meta", "link"}
#: Elements that load something, run something, or lead away
_LEADING_AWAY = {"script", "iframe", "img", "object", "embed", "form", "a", "base", "image", "use", "foreignObject", "video"}


class Page(html.parser.HTMLParser):
    """A strictly parsed page: every tag is closed, in order, and the page loads nothing.

    :ivar text: what a person reads, without tags; *titles*: of the plots
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.titles = re.findall("<h3>(.*?)</h3>", source)
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, f"not closed: {self._open}"
        assert len(self.ids) == len(set(self.ids)), "an id stands twice"
        assert not re.search(r"@import|url\(", source)
        svgs = re.findall(r"<svg xmlns=.*?</desc>.*?</svg>(?=</figure>)", source)
        assert len(svgs) == self.tags.count("figure")
        for each in svgs:
            assert ElementTree.fromstring(each).find("{http://www.w3.org/2000/svg}title") is not None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in _LEADING_AWAY, tag
        given = dict(attributes)
        assert len(given) == len(attributes), f"<{tag}> has an attribute twice"
        assert not any(name.startswith("on") or name in ("src", "srcset", "xlink:href", "action") for name in given), given
        assert given.get("href", "data:,") == "data:,"
        self.tags.append(tag)
        if "id" in given:
            self.ids.append(given["id"] or "")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag
        if tag in ("td", "th", "p", "li", "h2", "h3", "dt", "dd"):
            self.text += "\n"

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)


def browser_says(page: Path, folder: Path) -> tuple[str, str]:
    """Open *page* in chromium; return what its console says, what it requested from elsewhere, and the outer page. An iframe of
    360 px around it writes into its title how wide the page has become."""
    assert CHROMIUM is not None
    outer = folder / "phone.html"
    outer.write_text(
        "<!DOCTYPE html><iframe id=f style='width:360px;height:800px;border:0'></iframe><script>"
        "f.onload=()=>{let d=f.contentDocument;document.title='width '+d.documentElement.scrollWidth+' of '+"
        "d.documentElement.clientWidth+', color '+getComputedStyle(d.body).backgroundColor};"
        f"f.src={str(page)!r}</script>"
    )
    log = folder / "net.json"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--allow-file-access-from-files",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--log-level=0",
            f"--log-net-log={log}", "--blink-settings=preferredColorScheme=0",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--window-size=500,900", "--dump-dom",
            outer.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = "\n".join(each for each in done.stderr.splitlines() if ":CONSOLE" in each)
    asked = re.findall(r'"url":\s*"((?:https?|wss?|ftp):[^"]+)"', log.read_text())
    asked = [each for each in asked if not re.match(r"https?://[\w.]+\.google(apis)?\.com/", each)]  # the browser's own
    return "\n".join([said, *asked]), done.stdout
