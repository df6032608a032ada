"""What checkpoints contain besides the state and the items, and the verbs about it."""
