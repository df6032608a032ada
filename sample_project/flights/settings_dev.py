"""Development: starts where production is, and writes nothing of production's."""

import os

from flights.settings import *  # noqa: F403
from flights.settings import STATE_FEED

DEV_DATA = os.environ.get("FLIGHTS_DEV_DATA", "data-dev")

FEEDS = {
    f"{DEV_DATA}/%(name)s/items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"},
    **STATE_FEED,  # production's, to start from ...
}
STATE_READONLY = True  # ... and never written
