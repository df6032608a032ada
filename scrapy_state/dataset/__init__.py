"""The items of a lineage: listing their files, checking them, reading them."""
