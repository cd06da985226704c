"""A whole network in hardware: a compiler from the integer network to a program, and the SystemVerilog that runs it."""
