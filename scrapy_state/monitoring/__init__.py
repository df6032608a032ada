"""Telling others how the crawl is doing: a file for Prometheus, and messages over HTTP."""
