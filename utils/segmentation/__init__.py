"""The task of masks: a class for every pixel; a cfg that ends in [segment] has it."""
