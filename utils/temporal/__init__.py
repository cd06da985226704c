"""Networks trained as spikes: neurons with state, surrogate gradients, a network run through time."""
