"""The task of sequences: values or classes read out of a network step by step."""
