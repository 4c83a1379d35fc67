"""What may be wrong with a cluster, and what to do about it.

CRITICAL: requests fail or data is at risk. WARNING: it works, with less in reserve, and does not
mend itself. NOTE: it mends itself, or is there to be known.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

#: A purge waits for a node for this long before anyone need care.
PURGE_STUCK_S: Final = 300.0
#: Nothing goes on in a change of owners for this long before anyone need care.
LAYOUT_STUCK_S: Final = 300.0


class Severity(Enum):
    """From worst to best."""

    CRITICAL = "critical"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found; the texts are without a full stop."""

    severity: Severity
    about: str
    what: str
    do: str
