"""The integer network as spikes over time: neurons, executors, costs, files."""
