"""A search over settings by Optuna, which lies in one file and goes on where it was."""
