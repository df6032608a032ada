"""Crawl two days of flights through a SIGKILL, a SIGTERM and a failing site, and count what is stored in the end.

    python demo.py [--s3] [--keep]

Everything runs on this machine, on free ports of 127.0.0.1: the API (api.py), the crawls (`scrapy crawl flights`) and, with
--s3, a moto server instead of S3. Everything is written to one temporary folder.
"""

import argparse
import csv
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
FLIGHTS = HERE / "flights-2013-01.csv.gz"

START, END = "2013-01-01T00:00", "2013-01-03T00:00"
KILL_AT = "2013-01-01T10:00"
TERM_AT = "2013-01-01T20:00"
FAIL_FROM = "2013-01-02T09:30"
FAIL_EVERY = 97  # calls
CONCURRENT, LINKED = "flights_concurrent", "flights_linked"
KILL_AFTER = 800  # calls of the spider that follows links
DEADLINE = 120  # seconds for one run, and for a server to start


class DemoError(Exception):
    """Something did not go as planned. *log* is the file that says more."""

    def __init__(self, message, log=None):
        super().__init__(message)
        self.log = log


# Read what is stored, as any user of the data would


def lineage(storage, spider="flights"):
    """Yield the checkpoints, from the newest one back to the first."""
    checkpoints = {}
    for uri in storage.files("state/", spider):
        (checkpoint,) = json.loads(storage.read(uri))
        checkpoints[checkpoint["id"]] = checkpoint
    id = max(checkpoints, default=None)
    while id is not None:
        yield checkpoints[id]
        id = checkpoints[id]["parent"]


def items(storage, checkpoint):
    """Yield the items that a checkpoint names."""
    for file in checkpoint["files"]:
        skipped = {position for start, end in file.get("skip", []) for position in range(start, end)}
        for position, line in enumerate(storage.read(file["uri"]).splitlines()):
            if position not in skipped:
                yield json.loads(line)


def key(flight):
    """Return what identifies a flight: scheduled departure, carrier and number."""
    return f"{flight['date']}T{flight['sched_dep_time']}", flight["carrier"], flight["flight"]


def expected_flights(start, end):
    """Count the flights from *start* until *end* in the data themselves."""
    keys = Counter()
    with gzip.open(FLIGHTS, "rt", newline="") as file:
        for row in csv.DictReader(file):
            clock = divmod(int(row["sched_dep_time"]), 100)
            departure = datetime(int(row["year"]), int(row["month"]), int(row["day"]), *clock)
            keys[departure.isoformat(timespec="minutes"), row["carrier"], int(row["flight"])] += 1
    return Counter({key: count for key, count in keys.items() if start <= key[0] < end})


def minutes_after(t, minutes):
    return (datetime.fromisoformat(t) + timedelta(minutes=minutes)).isoformat(timespec="minutes")


class Folder:
    """Data on local files."""

    def __init__(self, path):
        self.path, self.uri = path, str(path)

    def files(self, prefix, spider="flights"):
        """Return the URIs of the files in a folder. Requests are in a folder below that of the checkpoints."""
        return [path.as_uri() for path in (self.path / spider / prefix).glob("*") if path.is_file()]

    def read(self, uri):
        return Path(unquote(urlsplit(uri).path)).read_bytes()

    def snapshot(self):
        """Return size, time and content of each path. The time of a folder shows whether a file came and went."""
        found = {}
        for path in [self.path, *self.path.glob("**/*")]:
            content = path.read_bytes() if path.is_file() else b""
            found[path] = len(content), path.stat().st_mtime_ns, hashlib.sha256(content).hexdigest()
        return found


class Bucket:
    """Data on S3."""

    def __init__(self, client, name):
        self.client, self.name, self.uri = client, name, f"s3://{name}"
        client.create_bucket(Bucket=name)

    def files(self, prefix, spider="flights"):
        folder = f"{spider}/{prefix}"
        return [f"{self.uri}/{found['Key']}" for found in self.list(folder) if "/" not in found["Key"][len(folder) :]]

    def list(self, prefix=""):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [found for page in pages for found in page.get("Contents", [])]

    def read(self, uri):
        return self.client.get_object(Bucket=self.name, Key=urlsplit(uri).path[1:])["Body"].read()

    def snapshot(self):
        """Return size, time, ETag and content of each key."""
        snapshot = {}
        for found in self.list():
            content = hashlib.sha256(self.read(f"{self.uri}/{found['Key']}")).hexdigest()
            snapshot[found["Key"]] = found["Size"], found["LastModified"], found["ETag"], content
        return snapshot


# Run the processes


class Process:
    """A process that the demo starts, with its output in a file. The end of the `with` block kills it."""

    def __init__(self, log, *command, **environment):
        self.log = log
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, *command],
                cwd=HERE,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the demo, which then ends its processes
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()

    def output(self):
        return self.log.read_text("utf-8", "replace")

    def wait_for(self, pattern):
        """Wait until the output matches *pattern*; return its group."""
        deadline = time.monotonic() + DEADLINE
        while not (match := re.search(pattern, self.output())):
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"{self.log.stem} did not start", self.log)
            time.sleep(0.05)
        return match[1]


class Demo:
    def __init__(self, folder, api, moto):
        self.folder, self.moto = folder, moto
        self.api = api.wait_for(r"listening on (http://\S+)\n")
        self.production, self.development = Folder(folder / "production"), Folder(folder / "development")
        self.settings = {"STATE_INTERVAL": 0.5}
        self.runs = {}  # name of a run: how it ended
        if moto:
            self.use_s3(moto.wait_for(r"Running on (http://\S+)\n"), "us-east-1", "demo", "demo")

    def use_s3(self, url, region, id, secret):
        import boto3

        client = boto3.client("s3", region, endpoint_url=url, aws_access_key_id=id, aws_secret_access_key=secret)
        self.production, self.development = Bucket(client, "production"), Bucket(client, "development")
        self.settings |= {"AWS_ENDPOINT_URL": url, "AWS_REGION_NAME": region}
        self.settings |= {"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret}

    def site(self, **changes):
        """Tell the API which calls to let fail, if any; return its status."""
        request = urllib.request.Request(f"{self.api}/control", json.dumps(changes).encode())
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            return json.load(response)

    def crawl(self, name, plan, stop=None, at=None, project="default", spider="flights", **settings):
        """Run `scrapy crawl` to its end, or send it the signal *stop* at the minute *at*, or after *at* calls."""
        print(f"{name}: {plan}", flush=True)
        command = ["-m", "scrapy", "crawl", spider, "-a", f"until={END}"]
        for setting, value in (self.settings | settings).items():
            command += ["-s", f"{setting}={value}"]
        environment = {
            "SCRAPY_PROJECT": project,
            "FLIGHTS_API": self.api,
            "FLIGHTS_DATA": self.production.uri,
            "FLIGHTS_DEV_DATA": self.development.uri,
        }
        log = self.folder / f"{name.replace(' ', '-')}.log"
        before, stored = self.site(), len(self.production.files("state/", spider))
        deadline = time.monotonic() + DEADLINE
        over = sent = shown = False
        with Process(log, *command, **environment) as run:
            while not over:
                over = run.popen.poll() is not None  # before the counts, so that the last line is complete
                site, checkpoints = self.site(), len(self.production.files("state/", spider)) - stored
                calls, errors = site["calls"] - before["calls"], site["errors"] - before["errors"]
                minute = site["last_served"] if calls else ""
                # Where links lead, the minutes come in any order.
                reached, part = (calls, calls // 500) if spider == LINKED else (minute, quarter_of(minute))
                where = f"{calls} calls" if spider == LINKED else minute
                line = f"  {where or 'starting'}, {checkpoints} checkpoints, {errors} x HTTP 500"
                shown = progress(line, part, shown)
                if stop and not (sent or over) and reached >= at and checkpoints > 2:
                    run.popen.send_signal(stop)
                    sent = True
                if time.monotonic() > deadline:
                    raise DemoError(f"{name} took more than {DEADLINE} s", log)
                time.sleep(0.2)
        self.runs[name] = ending(run, stop if sent else None)
        print("\r\33[K" if sys.stdout.isatty() else "", f"{line}: {self.runs[name]}", sep="", flush=True)
        if stop and not sent:
            raise DemoError(f"{name} ended before the demo could stop it", log)

    def production_runs(self):
        self.crawl("run 1", "from the start; SIGKILL midway", stop=signal.SIGKILL, at=KILL_AT)
        self.crawl("run 2", "resumes; SIGTERM midway", stop=signal.SIGTERM, at=TERM_AT)
        self.site(fail_from=FAIL_FROM)
        self.crawl("run 3", f"resumes; from {FAIL_FROM} on the site answers HTTP 500")
        self.site(fail_from=None)
        self.crawl("run 4", "the site is fixed; resumes")

    def development_run(self):
        """Make a development run that starts an hour earlier; return its row of the table, and whether it went as it should."""
        start = minutes_after(next(lineage(self.production))["state"]["t"], minutes=-60)
        state = json.dumps({"t": start})
        before, log_before = self.production.snapshot(), self.moto and len(self.moto.output())
        self.crawl("run 5", f"SCRAPY_PROJECT=dev scrapy crawl flights -s STATE='{state}'", project="dev", STATE=state)

        unchanged = self.production.snapshot() == before
        print(f"  production's {len(before)} paths: size, time and SHA-256 are {'the same' if unchanged else 'NOT the same'}")
        if self.moto:  # its log shows every request
            methods = re.findall(r"([A-Z]+) /production\S* HTTP/", self.moto.output()[log_before:])
            changes = [method for method in methods if method not in ("GET", "HEAD")]
            print(f"  production's bucket: {len(methods)} requests since, {len(changes)} of them not GET or HEAD")
            unchanged = unchanged and not changes

        # The run stores no state. The one it reached is the minute after its last call.
        lines = [line for uri in self.development.files("items/") for line in self.development.read(uri).splitlines()]
        complete = Counter(key(json.loads(line)) for line in lines) == expected_flights(start, END)
        how = f"{self.runs['run 5']} (development)" if complete else "other flights than expected (development)"
        return ("run 5", start, minutes_after(self.site()["last_served"], minutes=1), how, len(lines)), unchanged and complete

    def concurrent_runs(self):
        """Crawl the same days with 16 requests at once, through a SIGKILL; return whether each flight is stored once."""
        self.crawl(
            "run 6", "flights_concurrent, 16 requests at once; SIGKILL midway", signal.SIGKILL, KILL_AT, spider=CONCURRENT
        )
        self.crawl("run 7", "flights_concurrent resumes", spider=CONCURRENT)
        return self.is_complete(CONCURRENT)

    def linked_runs(self):
        """Crawl the same days by following links, through a SIGKILL; return whether each flight is stored once."""
        plan = "flights_linked, an ordinary spider that follows links; SIGKILL midway"
        self.crawl("run 8", plan, signal.SIGKILL, KILL_AFTER, spider=LINKED)
        pending = next(lineage(self.production, LINKED))["requests"]["pending"]
        self.crawl("run 9", f"flights_linked resumes with {pending} requests", spider=LINKED)
        return self.is_complete(LINKED)

    def is_complete(self, spider):
        """Print the count of what *spider* has stored; return whether it is each flight once."""
        named = Counter(key(item) for each in lineage(self.production, spider) for item in items(self.production, each))
        expected = expected_flights(START, END)
        lost, twice = (expected - named).total(), (named - expected).total()
        print(f"  {spider}: expected {expected.total()}, named {named.total()}, lost {lost}, twice {twice}", flush=True)
        return lost == twice == 0

    def summary(self, development_row):
        """Print the table and the count; return whether each flight is stored exactly once."""
        checkpoints = list(lineage(self.production))[::-1]
        flights = {each["id"]: [key(item) for item in items(self.production, each)] for each in checkpoints}
        rows = [("", "from state", "to state", "how it ended", "flights stored")]
        ids = dict.fromkeys(each["run"] for each in checkpoints)
        for name, id in zip(self.runs, ids, strict=False):  # the runs after these store no checkpoints here
            run = [each for each in checkpoints if each["run"] == id]
            stored = sum(len(flights[each["id"]]) for each in run)
            rows.append((name, run[0]["state"]["t"], run[-1]["state"]["t"], self.runs[name], stored))
        print()
        for name, start, end, how, stored in [*rows, development_row]:
            print(f"{name:7}{start:18}{end:18}{how:43}{stored:>14}")
        print()

        expected = expected_flights(START, END)
        named = Counter(flight for each in flights.values() for flight in each)
        lost, twice = (expected - named).total(), (named - expected).total()
        files = {file["uri"] for each in checkpoints for file in each["files"]}
        orphans = set(self.production.files("items/")) - files  # files that no checkpoint names
        counts = f"expected {expected.total()}, named {named.total()}, lost {lost}, twice {twice}"
        print(f"{counts}, orphans {len(orphans)}", flush=True)
        return lost == twice == 0


def ending(run, stop):
    """Return how a run ended that got the signal *stop*, or none."""
    code = run.popen.returncode
    if stop == signal.SIGKILL and code == -stop:
        return "killed (SIGKILL)"
    if code:
        raise DemoError(f"scrapy exited with {code}", run.log)
    if failed := re.search(r"Gave up retrying <GET \S+at=(\S+)> .*: (\d+) ", run.output()):
        return f"site failed at {failed[1]} (HTTP {failed[2]})"
    return "stopped (SIGTERM)" if stop else "finished"


def quarter_of(minute):
    """Return the day of *minute*, and its quarter; nothing if there is none."""
    return minute and (minute[:10], int(minute[11:13]) // 6)


def progress(line, part, shown):
    """Rewrite one line on a terminal. Elsewhere, print it once per *part* of a crawl; *shown* is the last one."""
    if sys.stdout.isatty():
        print(f"\r\33[K{line}", end="", flush=True)
    elif shown and part != shown:
        print(line, flush=True)
    return part


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--s3", action="store_true", help="store on S3 (a moto server)")
    parser.add_argument("--keep", action="store_true", help="keep the data and the logs")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the demo cleans up then, too
    for name in [name for name in os.environ if name.startswith(("AWS_", "SCRAPY_"))]:
        del os.environ[name]  # settings of this machine must not change the demo
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"

    folder = Path(tempfile.mkdtemp(prefix="scrapy-state-demo-")).resolve()
    print(f"data and logs: {folder} ({'kept' if options.keep else 'removed at the end; --keep keeps it'})", flush=True)
    moto = ["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    try:
        with (
            Process(folder / "api.log", "api.py", "--port", "0") as api,
            Process(folder / "moto.log", *moto) if options.s3 else nullcontext() as moto,
        ):
            demo = Demo(folder, api, moto)
            demo.site(fail_every=FAIL_EVERY)
            demo.production_runs()
            row, well = demo.development_run()
            well = demo.concurrent_runs() and well
            well = demo.linked_runs() and well
            return 0 if demo.summary(row) and well else 1
    except DemoError as error:
        tail = error.log.read_text("utf-8", "replace").splitlines()[-30:] if error.log else []
        print(f"\n{error}", *tail, sep="\n    ", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 128 + signal.SIGINT
    finally:
        if not options.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
