"""Where a run starts, and why it must not start."""
