"""What the site for spiders of any shape answers (any_site.py), without a server."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Fetch:
    """A request that the site got. *run*: the run that sent it; *time*: in seconds since 1970."""

    time: float
    run: int
    method: str
    path: str


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: str = ""
    headers: tuple[str, ...] = ()


class Answers:
    """Most addresses answer with their own path. The others: /crawl/N has links; /redirect/N/H leads to /p/N in H steps;
    /flaky/N/T fails until it has been asked T times; /never, /missing; /login, /private/N; /poll.

    :param pages: how many pages link to each other
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.asked: Counter[str] = Counter()
        self._sessions: set[str] = set()
        self._released = 0

    def answer(self, fetch: Fetch, cookie: str) -> Answer:
        _, kind, *rest = fetch.path.split("/")
        match kind, rest:
            case "crawl", [number]:
                links = "".join(f'<p><a href="/crawl/{each}">page {each}</a></p>' for each in self._links(int(number)))
                return Answer(body=f"<html><body>{links}</body></html>")
            case "redirect", [number, hops]:
                place = f"/redirect/{number}/{int(hops) - 1}" if int(hops) > 1 else f"/p/{number}"
                return Answer(302, headers=(f"Location: {place}",))
            case "flaky", [_, tries]:
                return Answer(200 if self.asked[fetch.path] >= int(tries) else 500, fetch.path)
            case "never", _:
                return Answer(500)
            case "missing", _:
                return Answer(404)
            case "login", _:
                session = f"{fetch.run}-{len(self._sessions)}"  # it is over when the run is
                self._sessions.add(session)
                return Answer(headers=(f"Set-Cookie: session={session}; Path=/",))
            case "private", _:
                session = cookie.partition("session=")[2].partition(";")[0]
                return Answer(200 if session in self._sessions and session.startswith(f"{fetch.run}-") else 403)
            case "poll", _:
                self._released = min(self.pages, self._released + 10)
                return Answer(body=str(self._released))
        return Answer(body=fetch.path)

    def _links(self, page: int) -> list[int]:
        further = [each for each in range(3 * page + 1, 3 * page + 4) if each < self.pages]
        return further + [each for each in (page // 2, page - 1) if each > 0]
