"""The tests that every store must pass, for the test suite of a store of your own. Needs pytest.

::

    import pytest
    from scrapy_state.testing import Place, StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        def place(self):
            return Place("mine://somewhere/", {"STATE_STORES": {"mine": "project.stores.MyStore"}})

With ``pytest.register_assert_rewrite("scrapy_state.testing")`` in ``conftest.py``, before the import, a failing test shows
the values.
"""

from .contract import ODD_NAMES, StoreContract
from .failing import every_call_raises
from .place import Place

__all__ = ["ODD_NAMES", "Place", "StoreContract", "every_call_raises"]
