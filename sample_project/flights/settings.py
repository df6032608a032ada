"""Production."""

import os

BOT_NAME = "flights"
SPIDER_MODULES = ["flights.spiders"]
NEWSPIDER_MODULE = "flights.spiders"

ADDONS = {"scrapy_state.Addon": 500}

# The place of the data: a folder, or s3://bucket/prefix. The address and the credentials of the S3 service come from
# the AWS_* settings or from the environment, as always in Scrapy.
DATA = os.environ.get("FLIGHTS_DATA", "data")

STATE_FEED = {
    f"{DATA}/%(name)s/state/%(batch_id)010d.json": {
        "format": "json",
        "item_classes": ["scrapy_state.StateItem"],
    },
}
FEEDS = {
    f"{DATA}/%(name)s/items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"},
    **STATE_FEED,
}

STATE = {"t": "2013-01-01T00:00"}  # where the very first run starts, when there is no checkpoint yet
STATE_INTERVAL = 60  # at least 60 seconds between two checkpoints

FLIGHTS_API = os.environ.get("FLIGHTS_API", "http://127.0.0.1:8013")

LOG_LEVEL = "INFO"
FEED_EXPORT_ENCODING = "utf-8"
