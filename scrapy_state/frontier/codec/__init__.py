"""Requests as bytes and back, in a form that runs no code when it is read."""

from .requests import PUSHED, Codec, Unreadable, unpacked

__all__ = ["PUSHED", "Codec", "Unreadable", "unpacked"]
