"""Whether a given or served target is what it is taken for."""
