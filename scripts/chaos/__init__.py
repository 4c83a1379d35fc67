"""Chaos for real: a cluster of processes under load, broken on purpose, then judged.

The same clients, history and judge as in the simulation (``scripts.checker``), over real sockets,
disks and signals. ``plan`` says which faults strike when, ``conductor`` strikes, ``proxy`` is the
network between nodes, ``clients`` ask, ``replicas`` looks at each copy, ``evidence`` knows what was
destroyed, ``run`` plays the phases, ``report`` tells.
"""
