"""Background work of a node. None of it is on a request's path."""
