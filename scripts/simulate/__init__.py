"""Seeded histories of whole simulated clusters, many of them, and what to read when one fails.

The simulation itself is ``tests.simulation``, and this package is the only one outside of the tests
that imports it: so it runs from the root of the project, not from an installed package.
``make simulate`` and ``python -m scripts.simulate`` are for people; what was once found is in
``tests/simulation/corpus``, and CI plays it.
"""
