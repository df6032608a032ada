"""Development: starts from production's state, and writes nothing to production."""

import os

from flights.settings import *  # noqa: F403
from flights.settings import STATE_FEED

DEV_DATA = os.environ.get("FLIGHTS_DEV_DATA", "data-dev")

FEEDS = {
    f"{DEV_DATA}/%(name)s/items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"},
    **STATE_FEED,  # of production, to start from it ...
}
STATE_READONLY = True  # ... and never write to it
