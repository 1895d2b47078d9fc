"""Training on several widths of a network, one after the other."""
