"""What must not go wrong, played with real processes.

Nothing acknowledged is lost, nothing deleted comes back. Each scenario is one function: its
docstring says what is done and what must be seen, its body does it to a local cluster of its own,
whose months last seconds. ``python -m scripts.scenarios`` plays them for people,
``tests/cluster/test_scenarios.py`` for CI.
"""
