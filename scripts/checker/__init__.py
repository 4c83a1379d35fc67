"""What the simulation and chaos with real processes share: clients, and the judgement over them.

``workload`` asks, ``history`` remembers what was asked and heard, ``checks`` says what of it must
not be, given the ``evidence`` that the run has besides.
"""
