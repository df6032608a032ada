"""What runs keep for the next one besides state, items and requests: files, and objects of the project."""
