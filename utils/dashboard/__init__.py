"""A folder of runs as pages in a browser: what they are, how they go, what they cost and score."""
