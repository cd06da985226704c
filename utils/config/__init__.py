"""What the scripts' flags say, as frozen dataclasses: one field a flag, defaults and reasons in one place."""
