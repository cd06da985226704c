"""The detection task put together for train.py: what a run starts from, its parts, its epochs, what it tells."""
