"""A narrated run: what clients of two regions see while things break, and what is left."""
