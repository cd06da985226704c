"""The task of classes: which of some kinds a whole picture is; a cfg that ends in [softmax] has it."""
