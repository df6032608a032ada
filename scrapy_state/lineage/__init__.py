"""The checkpoints of a state feed: finding, reading, storing and pruning them; the orphans they leave."""
