"""The errors of scrapy_state: one tree. Each says what was wrong, with which setting or URI, and what to do.

::

    StateError
     +-- StateSettingsError      a setting, a feed or a spider attribute that can't be used as it is
     +-- CheckpointError         a stored state file that is not a checkpoint (torn, empty, foreign, altered)
     +-- CheckpointTooNew        a checkpoint that a newer scrapy_state stored
     +-- StoreError              a store that did not do what it was asked to
     |    +-- StoreUnreachable   no answer, or "try again later": may pass by itself
     |    +-- StoreSilent        no answer to a call that may still be under way, so that it can't be repeated
     |    +-- StoreRefused       it answered no: credentials, permission, bucket; does not pass by itself
     |    +-- ContentDamaged     what was read does not fit the checksum stored with it; a CheckpointError, too
     |    +-- KeyTaken           a create-only write found the name taken by something else
     |    +-- StoreReadOnly      a reader was asked to write: a bug, caught before anything was sent
     +-- StateConflict           another run writes under the same prefix
     +-- ItemFailed              an item that raised in a pipeline, or that a feed could not export
     +-- UnitFailed              a request or an item of a unit (docs/units.md) that failed
     +-- PageFailed              a page (docs/requests.md) that failed

"Not found" is a result (``None``), never an error.
"""

from __future__ import annotations


class StateError(Exception):
    """The root: catch this to catch everything that scrapy_state raises on purpose.

    As text it is one line: ``URI: reason; remedy``.

    :param reason: what was wrong; names the setting if it is about one
    :param uri: the file or the store it is about, without credentials; empty if it is about none
    :param remedy: what the user can do; empty if the reason says it already
    """

    def __init__(self, reason: str, *, uri: str = "", remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.uri = uri
        self.remedy = remedy

    def __str__(self) -> str:
        before = f"{self.uri}: " if self.uri else ""
        after = f"; {self.remedy}" if self.remedy else ""
        return f"{before}{self.reason}{after}"


class StateSettingsError(StateError):
    """A setting, a feed or a spider attribute can't be used."""


class CheckpointError(StateError):
    """A file is not a complete, unaltered checkpoint, or not what a checkpoint says about it."""


class CheckpointTooNew(StateError):
    """A newer scrapy_state stored this checkpoint. This version must neither guess what it says nor skip it."""


class StoreError(StateError):
    """A store did not do what it was asked to."""


class StoreUnreachable(StoreError):
    """No answer, or an answer that means "later" (time-out, reset, 500, 503): trying again may help."""


class StoreSilent(StoreError):
    """A call got no answer in its time. It may still be under way, so it is not repeated."""


class StoreRefused(StoreError):
    """The store answered no (403, no such bucket, wrong key): trying again does not help."""


class ContentDamaged(StoreError, CheckpointError):
    """What was read does not fit the checksum that the store keeps with it. A state file is then skipped, as a torn one."""


class KeyTaken(StoreError):
    """A create-only write found other content under the name."""


class StoreReadOnly(StoreError):
    """Something asked a reader to write: a bug in the caller. Nothing was sent."""


class StateConflict(StateError):
    """Another run stored checkpoints under the same prefix during this run."""


class ItemFailed(StateError):
    """An item raised in a pipeline or could not be exported, so no checkpoint may pass it."""


class UnitFailed(StateError):
    """A unit failed, and STATE_ON_UNIT_ERROR is "stop"."""


class PageFailed(StateError):
    """A page failed, and STATE_ON_PAGE_ERROR is "stop"."""
