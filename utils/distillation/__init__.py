"""A trained network teaches another: terms by name and by ``--KDstr`` number, added to the loss of the labels."""
