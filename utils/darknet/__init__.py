"""Darknet's files as data: cfg and weights, read and written exactly."""
