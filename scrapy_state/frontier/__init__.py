"""The requests of a crawl in its checkpoints: pages, what has been seen, cookies, and their files."""

from .scheduler import Scheduler

__all__ = ["Scheduler"]
