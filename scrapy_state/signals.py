"""Signals that scrapy_state sends, through ``crawler.signals`` as Scrapy's own."""

#: ``checkpoint_stored(checkpoint, spider)``: a :class:`~scrapy_state.checkpoint.Checkpoint` can be read from now on.
checkpoint_stored = object()
