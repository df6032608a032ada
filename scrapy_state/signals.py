"""The signals of scrapy_state. Connect to them with ``crawler.signals``, as to Scrapy's own."""

#: ``checkpoint_stored(checkpoint, spider)``: this :class:`~scrapy_state.Checkpoint` is stored and can be read.
checkpoint_stored = object()
