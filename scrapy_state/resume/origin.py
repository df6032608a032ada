"""Where a run's state came from, in the words of the log."""

from __future__ import annotations

import time

from ..lineage.resolution import Resolution
from ..model.json_values import as_text
from ..model.times import in_words, moment
from ..settings import StateSettings


def describe(resolution: Resolution) -> str:
    """Return which checkpoint was resolved, with its URI, its run and its age: "checkpoint 5 (file:///…, run …, 2 s old)"."""
    checkpoint = resolution.checkpoint
    assert checkpoint is not None
    if checkpoint.id is None:
        return f"the state file {resolution.uri}"
    made = moment(checkpoint.time)
    age = "" if made is None else f", {in_words(time.time() - made)} old"
    return f"checkpoint {checkpoint.id} ({resolution.uri}, run {checkpoint.run}{age})"


def differences(settings: StateSettings, resolution: Resolution) -> str:
    """Return what the log line adds: which checkpoints this run does not start from, and why; "; less STATE_LAG …"."""
    chosen, newest = resolution.checkpoint, resolution.newest
    text = f"; {resolution.skipped_count:,} newer skipped (not valid)" if resolution.skipped else ""
    if settings.explicit:
        return f"{text}; it takes precedence over {describe(resolution)}" if chosen else text
    if newest is not None and newest is not chosen and newest != chosen:
        # By their ids: some of them may have been pruned.
        count = (newest.id or 0) - ((chosen and chosen.id) or 0)
        text += f"; {count or 'some'} newer skipped (STATE_AT is {settings.at})"
    if chosen is not None and chosen.state:
        text += less_lag(settings)
    return text


def less_lag(settings: StateSettings) -> str:
    """Return "; less STATE_LAG …", or nothing if it is not set."""
    return f"; less STATE_LAG {as_text(settings.lag)}" if settings.lag else ""
