"""Shapes of spiders (any_spiders.py) of which something fails, or that end early."""

from __future__ import annotations

from any_shape import PARSE, PLAIN, Shape, keys, pages

_RAISES = """
class Raises(Any):
    async def start(self):
        for number in range(self.size):
            yield self.to(f"/p/{number}", cb_kwargs={"number": number})

    def parse(self, response, number):
        page = path_of(response)
        yield from items(page, 0)
        yield self.to(f"/child/{number}", callback=self.parse_child, dont_filter=True)
        yield self.to(f"/filtered/{number}", callback=self.parse_child)
        if number % 10 == 3 and self.fails(number):
            raise RuntimeError("this page fails")
        yield from items(page, 1, 2)

    def fails(self, number):
        failed = Path(f"failed-{number}")
        is_first = not failed.exists()
        failed.touch()
        return is_first or self.fail == "always"

    def parse_child(self, response):
        yield from items(path_of(response), 0)
"""


def _raises(fail: str, policy: str, over: tuple[str, ...], failed: tuple[str, ...] = ()) -> Shape:
    def good(size: int) -> list[str]:
        children = pages("child", size, 0) + pages("filtered", size, 0)
        return children + [key for n in range(size) if n % 10 != 3 for key in keys(f"/p/{n}", 0, 1, 2)]

    def bad(size: int, *numbers: int) -> list[str]:
        return [key for n in range(size) if n % 10 == 3 for key in keys(f"/p/{n}", *numbers)]

    def expected(size: int) -> list[str]:
        if policy == "skip":
            return good(size) + bad(size, 0)
        return good(size) + (bad(size, 0, 1, 2) if fail == "first" else [])

    return Shape(
        f"raises_{fail}_{policy}", _RAISES, expected, size=50, arguments={"fail": fail},
        settings={"STATE_ON_PAGE_ERROR": policy}, errors=True, over=over, failed=failed, tries=None,
        optional=lambda size: bad(size, 1, 2) if (fail, policy) == ("first", "skip") else (),
    )  # fmt: skip


RAISES = (
    _raises("first", "skip", ("finished",)),
    _raises("always", "skip", ("finished",)),
    _raises("first", "hold", ("finished",), ("state_pages_failed",)),
    _raises("always", "hold", ("state_pages_failed",)),
    _raises("first", "stop", ("finished",), ("state_page_failed", "state_pages_failed")),
)

START_FAILS = Shape(
    "start_fails",
    f"""
class StartFails(Any):
    async def start(self):
        for number in range(self.size):
            if number == self.size // 2 and not Path("failed").exists():
                Path("failed").touch()
                raise RuntimeError("start() fails the first time")
            yield self.to(f"/p/{{number}}")
{PARSE}
""",
    lambda size: pages("p", size, 0, 1),
    errors=True,
    failed=("start_error",),
)

RETRIES = Shape(
    "retries",
    """
class Retries(Any):
    async def start(self):
        yield self.to("/never/0")
        for number in range(self.size):
            yield self.to(f"/flaky/{number}/{number % 3 + 1}")

    def parse(self, response):
        assert response.status == 200
        page, _, tries = path_of(response).rpartition("/")
        yield from items(page, 0, 1)
""",
    lambda size: pages("flaky", size, 0, 1),
    size=60,
    tries=lambda path, size: 3 if path == "/never/0" else int(path.rpartition("/")[2]),
    errors=True,
)

ITEM_LIMIT = Shape(
    "item_limit",
    PLAIN,
    lambda size: pages("p", size, 0, 1),
    settings={"CLOSESPIDER_ITEMCOUNT": 80},
    failed=("closespider_itemcount",),
)
PAGE_LIMIT = Shape(
    "page_limit",
    PLAIN,
    lambda size: pages("p", size, 0, 1),
    settings={"CLOSESPIDER_PAGECOUNT": 40},
    failed=("closespider_pagecount",),
)
#: What the spider has not seen by then, it does not want.
CLOSES = Shape(
    "closes",
    """
class Closes(Any):
    async def start(self):
        yield self.to("/next/0", dont_filter=True)

    def parse(self, response):
        yield from items(path_of(response), 0, 1)
        number = int(response.url.rpartition("/")[2]) + 1
        if number == self.size:
            raise CloseSpider("enough")
        yield self.to(f"/next/{number}", dont_filter=True)
""",
    lambda size: pages("next", size, 0, 1),
    over=("enough",),
)

SHAPES = (*RAISES, START_FAILS, RETRIES, ITEM_LIMIT, PAGE_LIMIT, CLOSES)
