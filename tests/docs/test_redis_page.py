"""The code and the commands of docs/redis.md, with a real Redis."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from crawls import FEEDS, crawl
from doc_pages import block
from loopback import Handler, Server

pytestmark = pytest.mark.long


class Shop(Handler):
    def do_GET(self) -> None:
        self.reply(200, self.path)


def test_pushed(tmp_path: Path, server: Any) -> None:
    """The page's spider, with the page's settings, crawls what is pushed. Its ``redis-cli`` commands push, too."""
    settings: dict[str, Any] = {}
    exec(block("docs/redis.md", "STATE_REDIS_URL = "), settings)
    settings = {name: value for name, value in settings.items() if name.isupper()}
    settings |= {"STATE_REDIS_URL": server.url, "FEEDS": FEEDS, "STATE_INTERVAL": 0}
    with Server(Shop) as site:
        for line in block("docs/redis.md", "redis-cli RPUSH").splitlines():
            program, *arguments = shlex.split(line)
            assert subprocess.run([program, "-p", str(server.port), *arguments], capture_output=True).returncode == 0
        key = "scrapy_state:{flights}:urls"
        assert server.client().lrange(key, 0, -1)[0] == b"https://example.com/"
        server.client().delete(key)
        server.client().rpush(key, f'{{"url": "{site.url}/a", "id": 5}}')
        ran = crawl(tmp_path, block("docs/redis.md", "class ShopsSpider"), settings=settings)
        assert ran.code == 0, ran.log
        lines = [line for path in (tmp_path / "data").rglob("*.jsonl") for line in path.read_text().splitlines()]
        assert lines == [f'{{"shop": 5, "url": "{site.url}/a"}}']
