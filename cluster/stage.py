"""How far a node is that leaves service."""

from enum import Enum


class Stage(Enum):
    """Of a node that leaves service while its process runs."""

    SERVING = "serving"
    DRAINING = "draining"
    #: No client asks it, and it has nothing left to hand on.
    DRAINED = "drained"
    #: Its process will end in a moment.
    STOPPING = "stopping"
