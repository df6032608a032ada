"""What benchmarks share: servers on this machine, each in its own process, and the project of a crawl.

``python servers.py KIND …`` prints its port, and ends with its standard input:

- ``items COUNT``: a site whose every page is the same JSON list of COUNT small items.
- ``large COUNT BYTES``: a site whose pages /0, /1, … are JSON lists of COUNT items of about BYTES bytes each.
- ``site``: a site whose pages /COUNT/0 to /COUNT/COUNT-1 have 3 items and 10 links each, most of them to pages that others
  link to, too.
- ``links PAGES``: a site of PAGES pages, each with links to three further ones and back.
- ``listings SECONDS``: a site of listings with 10 links each to pages with 3 items each: see listings() below.
- ``s3``: an S3 server (moto). ``GET /-/requests`` returns how many requests it got.
- ``proxy PORT SECONDS``: a proxy that adds SECONDS to each round trip to the server at PORT.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextmanager
def server(*arguments: object, program: str = __file__) -> Iterator[int]:
    """Start a server of this module, or of another *program*, and yield its port. It ends with the context."""
    command = [sys.executable, program, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


def ends_with_stdin(port: int) -> None:
    """Print the port. End this process when its standard input is closed."""
    print(port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()


def project(folder: Path, spider: str, settings: dict[str, Any], **arguments: object) -> dict[str, Any]:
    """Write *spider* and *settings* into *folder*; return what subprocess.Popen takes to crawl with them."""
    (folder / "bench.py").write_text(spider)
    (folder / "bench_settings.py").write_text("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    given = [part for name, value in arguments.items() for part in ("-a", f"{name}={value}")]
    return {
        "args": [sys.executable, "-m", "scrapy", "runspider", "bench.py", *given],
        "cwd": folder,
        "env": {**os.environ, "SCRAPY_SETTINGS_MODULE": "bench_settings", "PYTHONPATH": path},
    }


def site(content_type: str, body: Callable[..., bytes]) -> Serve:
    """Serve pages. *body* gets the last part of the path, a number; if it takes two, the part before that comes first."""
    parts = len(signature(body).parameters)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                content = body(*map(int, head.split()[1].split(b"/")[-parts:]))
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
                writer.write(head + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return serve


def items(count: str) -> Serve:
    page = json.dumps([{"n": n, "name": f"item {n}", "text": "some text " * 10} for n in range(int(count))]).encode()
    return site("application/json", lambda number: page)


def large(count: str, size: str) -> Serve:
    text = "some text " * (int(size) // 10)

    def body(page: int) -> bytes:
        # The items differ, so that no two share their memory.
        return json.dumps([{"key": page * int(count) + n, "text": text} for n in range(int(count))]).encode()

    return site("application/json", body)


def linked() -> Serve:
    def body(pages: int, page: int) -> bytes:
        # The children in a tree, which are new, and pages here and there.
        found = [each for each in (2 * page + 1, 2 * page + 2) if each < pages]
        found += [(page * step) % pages for step in range(11, 11 + 10 - len(found))]
        items = "".join(f"<li><b>item {page}-{n}</b> <i>{'some text ' * 10}</i></li>" for n in range(3))
        links = "".join(f'<a href="/{pages}/{each}">page {each}</a> ' for each in found)
        return f"<html><head><title>{page}</title></head><body><ul>{items}</ul><p>{links}</p></body></html>".encode()

    return site("text/html", body)


def listings(seconds: str) -> Serve:
    """/list/N links to /page/N-0 to /page/N-9, which take SECONDS. /-/paths returns all paths so far; /-/forget forgets them;
    /-/until/COUNT answers once there are so many."""
    paths: list[str] = []
    changed = asyncio.Condition()

    async def body(path: str) -> bytes:
        _, kind, name = path.split("/")
        if kind == "list":
            links = "".join(f'<a href="/page/{name}-{each}">page {each}</a> ' for each in range(10))
            return f"<html><body><h1>Listing {name}</h1><p>{links}</p></body></html>".encode()
        if kind == "page":
            await asyncio.sleep(float(seconds))
            items = "".join(f"<li><b>{name}-{n}</b> <i>{'some text ' * 10}</i></li>" for n in range(3))
            return f"<html><head><title>{name}</title></head><body><ul>{items}</ul></body></html>".encode()
        return b""

    async def about(path: str) -> bytes:
        if path == "/-/paths":
            return json.dumps(paths).encode()
        if path == "/-/forget":
            paths.clear()
        else:
            async with changed:
                await changed.wait_for(lambda: len(paths) >= int(path.rpartition("/")[2]))
        return b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                if path.startswith("/-/"):
                    content = await about(path)
                else:
                    async with changed:
                        paths.append(path)
                        changed.notify_all()
                    content = await body(path)
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(content)}\r\n\r\n".encode())
                writer.write(content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return serve


def links(pages: str) -> Serve:
    def body(page: int) -> bytes:
        found = [each for each in range(3 * page + 1, 3 * page + 4) if each < int(pages)] + [page // 2, max(0, page - 1)]
        return "\n".join(f"/{each}" for each in found).encode() + b"\n" + b"text " * 1000

    return site("text/plain", body)


def proxy(port: str, seconds: str) -> Serve:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(1 << 16):
            loop.call_later(float(seconds) / 2, writer.write, data)
        loop.call_later(float(seconds) / 2, writer.close)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", int(port))
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer), return_exceptions=True)

    return serve


async def run(serve_of: Callable[..., Serve], *arguments: str) -> None:
    server = await asyncio.start_server(serve_of(*arguments), "127.0.0.1", 0, backlog=1000)
    ends_with_stdin(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def run_s3() -> None:
    import logging

    from moto.server import DomainDispatcherApplication, ThreadedMotoServer

    logging.disable()
    count, answer = [0], DomainDispatcherApplication.__call__

    def counting(self: Any, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/-/requests":
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(count[0]).encode()]
        count[0] += 1
        return answer(self, environ, start_response)

    DomainDispatcherApplication.__call__ = counting
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    ends_with_stdin(server.get_host_and_port()[1])
    threading.Event().wait()


def main(kind: str, *arguments: str) -> None:
    if kind == "s3":
        run_s3()
    else:
        kinds = {"items": items, "large": large, "links": links, "listings": listings, "site": linked, "proxy": proxy}
        asyncio.run(run(kinds[kind], *arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
