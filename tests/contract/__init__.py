"""One suite over every adapter of a port: what holds for one must hold for all."""
