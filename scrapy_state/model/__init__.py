"""The formats of checkpoints, keys and times. Pure: no Scrapy, no stores."""
