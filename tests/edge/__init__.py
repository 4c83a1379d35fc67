"""The edge, with each program that can be it."""
