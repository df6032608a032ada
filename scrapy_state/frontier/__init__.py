"""Requests as bytes: what a frontier keeps, wherever it keeps it."""
