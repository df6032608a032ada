"""The items of a lineage: their files, whether these are there, what is in them."""
