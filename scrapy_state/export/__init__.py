"""Item files on their way to the store, and the checkpoints that name them."""
