"""What checkpoints cost: CPU of a crawl over HTTP with them, beside the same crawl with the item feed alone.

``python benchmarks/cpu.py --pairs 5``: a site and an S3 server (moto) on this machine, in processes of their own; crawls in
turn, Scrapy's own exporter and ours; user + system seconds of the crawl's process; medians and the ratios pair by pair.
The state feed gets a state item every 5 items.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ITEMS_A_PAGE = 20
SITE = """
import asyncio, json, sys
PAGE = json.dumps([{"n": n, "name": f"item {n}", "text": "some text " * 10} for n in range(int(sys.argv[1]))]).encode()
HEAD = f"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: {len(PAGE)}\\r\\n\\r\\n".encode()

async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            writer.write(HEAD + PAGE)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
S3 = """
import logging
from moto.server import ThreadedMotoServer
logging.disable()
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
import threading
threading.Event().wait()
"""
SPIDER = """
import scrapy
from scrapy_state import StateItem

class BenchSpider(scrapy.Spider):
    name = "bench"

    async def start(self):
        for chain in range(8):
            yield scrapy.Request(f"{self.site}/{chain}/0", dont_filter=True)

    def parse(self, response):
        page = int(response.url.rpartition("/")[2])
        for number, item in enumerate(response.json()):
            yield {"page": page, **item}
            if self.states and number % 5 == 4:
                yield StateItem({"page": page})
        if page < int(self.pages):
            yield scrapy.Request(response.url.rpartition("/")[0] + f"/{page + 1}")
"""


def server(source: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-c", source, str(ITEMS_A_PAGE)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def cpu_seconds(folder: Path, settings: dict[str, object], pages: int, site: str) -> float:
    """Run one crawl; return its CPU."""
    (folder / "bench_settings.py").write_text("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    (folder / "bench.py").write_text(SPIDER.replace("name = ", f"states = {'ADDONS' in settings}\n    name = "))
    environment = {**os.environ, "SCRAPY_SETTINGS_MODULE": "bench_settings"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "scrapy", "runspider", "bench.py", "-a", f"pages={pages}", "-a", f"site={site}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--pages", type=int, default=400, help="of each of 8 chains")
    chosen = parser.parse_args()
    servers = []
    try:
        site_process, site_port = server(SITE)
        servers.append(site_process)
        s3_process, s3_port = server(S3)
        servers.append(s3_process)
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION_NAME": "us-east-1"}
        common = {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}", "LOG_LEVEL": "WARNING"}
        common["TELNETCONSOLE_ENABLED"] = False  # type: ignore[assignment]
        import boto3

        client = boto3.client(
            "s3", endpoint_url=common["AWS_ENDPOINT_URL"], aws_access_key_id="key", aws_secret_access_key="secret",
            region_name="us-east-1",
        )  # fmt: skip
        client.create_bucket(Bucket="bench")
        items = {"s3://bench/items/%(batch_time)s.jsonl": {"format": "jsonlines"}}
        states = {
            "s3://bench/state-INTERVAL/%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
        }
        kinds: dict[str, dict[str, object]] = {"Scrapy's exporter": {**common, "FEEDS": items}}
        for interval in (60, 1, 0):
            own = {key.replace("INTERVAL", str(interval)): options for key, options in states.items()}
            checkpoints = {"ADDONS": {"scrapy_state.Addon": 500}, "FEEDS": {**items, **own}, "STATE_INTERVAL": interval}
            kinds[f"STATE_INTERVAL={interval}"] = {**common, **checkpoints}
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        with tempfile.TemporaryDirectory() as folder:
            for pair in range(chosen.pairs + 1):
                for kind, settings in kinds.items():
                    seconds = cpu_seconds(Path(folder), settings, chosen.pages, f"http://127.0.0.1:{site_port}")
                    if pair:  # the first round warms up
                        found[kind].append(seconds)
                print(f"round {pair} of {chosen.pairs}", file=sys.stderr)
    finally:
        for process in servers:
            process.kill()
            process.wait()
    base = found["Scrapy's exporter"]
    print(f"{8 * (chosen.pages + 1)} pages, {8 * (chosen.pages + 1) * ITEMS_A_PAGE} items; CPU seconds, {chosen.pairs} rounds")
    for kind, seconds in found.items():
        ratios = [one / other for one, other in zip(seconds, base, strict=True)]
        print(
            f"{kind:20} median {statistics.median(seconds):6.2f}   ratio to Scrapy's: median {statistics.median(ratios):.3f}"
            f"  ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
