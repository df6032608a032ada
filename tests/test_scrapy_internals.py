"""gaps: what is Scrapy's own business."""

from __future__ import annotations

import pytest
from scrapy import Spider
from scrapy.core.engine import ExecutionEngine
from scrapy.utils.test import get_crawler

from scrapy_state.scrapy_internals import hold


@pytest.fixture
def engine() -> ExecutionEngine:
    """One that runs nothing, without what its __init__ does."""
    engine = ExecutionEngine.__new__(ExecutionEngine)
    engine.crawler, engine.paused, engine._slot = get_crawler(Spider), False, None
    return engine


@pytest.mark.parametrize(
    ("before", "meanwhile", "after"),
    [
        (False, [], False),
        (False, ["pause"], True),
        (False, ["pause", "unpause"], False),
        (True, [], True),
        (True, ["unpause"], False),
        (True, ["unpause", "pause"], True),
    ],
)
def test_hold(engine: ExecutionEngine, before: bool, meanwhile: list[str], after: bool) -> None:
    """While the engine is held it is paused, whatever others ask for; then it is as they want it."""
    engine.paused = before
    let_go = hold(engine)
    for each in meanwhile:
        getattr(engine, each)()
        assert engine.paused
    let_go()
    assert engine.paused is after
    engine.pause()
    assert engine.paused
    engine.unpause()
    assert not engine.paused
