"""Smaller networks: wires say which channels are one channel, a plan says which go, surgery cuts them out."""
