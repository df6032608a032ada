"""The checkpoints of a state feed: finding them, reading them, storing them."""
