"""Post-training quantisation to a network of pure integers, and the executor that runs it."""
