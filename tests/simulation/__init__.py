"""A whole cluster in one process and in virtual time, repeatable from a seed."""
