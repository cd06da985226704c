"""What a chain of stages does next, from the numbers of what it did: pure decisions, no network and no file."""
