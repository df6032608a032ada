"""The errors of scrapy_state: one tree, each message naming the setting or URI, what was wrong, and what to do.

::

    StateError
     +-- StateSettingsError      a setting, a feed or a spider attribute that can't be used as it is
     +-- CheckpointError         a stored state file that is not a checkpoint (torn, empty, foreign, altered)
     +-- CheckpointTooNew        a checkpoint that a later scrapy_state has stored
     +-- StoreError              a store that did not do what was asked
     |    +-- StoreUnreachable   no answer, or "try again later": may pass by itself
     |    +-- StoreRefused       it answered no: credentials, permission, bucket; does not pass by itself
     |    +-- ContentDamaged     what was read does not fit the checksum stored with it; a CheckpointError, too
     |    +-- KeyTaken           create-only, and the name is taken by something else
     |    +-- StoreReadOnly      a write was asked of what may only read: a bug, caught before anything was sent
     +-- StateConflict           another run writes under the same prefix
     +-- ItemFailed              an item that raised in a pipeline, or that a feed could not export
     +-- UnitFailed              a request or an item of a unit (docs/units.md) that failed

"Not found" is a result (``None``), never an error.
"""

from __future__ import annotations


class StateError(Exception):
    """The root: catch this to catch everything that scrapy_state raises on purpose."""


class StateSettingsError(StateError):
    """A setting, a feed or a spider attribute can't be used; the message names it and the remedy."""


class CheckpointError(StateError):
    """Bytes that are not a whole, unaltered checkpoint; the message says in what way."""


class CheckpointTooNew(StateError):
    """A checkpoint of a later version of the format: this scrapy_state must not guess what it says, nor pass it over."""


class StoreError(StateError):
    """A store did not do what was asked; the message names the URI."""


class StoreUnreachable(StoreError):
    """No answer, or an answer that means "later" (time-out, reset, 500, 503): trying again may help."""


class StoreRefused(StoreError):
    """The store answered no (403, no such bucket, wrong key): trying again does not help."""


class ContentDamaged(StoreError, CheckpointError):
    """What was read does not fit the checksum that the store keeps with it. A state file is then passed over, as a torn one."""


class KeyTaken(StoreError):
    """A create-only write found other content under the name."""


class StoreReadOnly(StoreError):
    """Something asked the read side of a store to write: a bug in the caller; nothing was sent."""


class StateConflict(StateError):
    """Another run stored checkpoints under the same prefix while this one was at work."""


class ItemFailed(StateError):
    """An item raised in a pipeline or could not be exported, so no checkpoint may pass it."""


class UnitFailed(StateError):
    """A unit failed, and STATE_ON_UNIT_ERROR is "stop"."""
