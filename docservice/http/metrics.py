"""What the HTTP layer tells the metrics, and the closed sets that its labels come from."""

from typing import Final, Protocol

DOCUMENTS: Final = "/documents"
DOCUMENT: Final = "/documents/{id}"
BULK: Final = "/documents/_bulk"
PROBLEM: Final = "/problems/{code}"
#: A path that nothing is served at, or a request that got no as far as a path.
UNMATCHED: Final = "unmatched"
#: Every other method, whatever a client made up.
OTHER_METHOD: Final = "_OTHER"
METHODS: Final = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", OTHER_METHOD)


class RequestMetrics(Protocol):
    """Called once a request, after its answer was handed to the socket."""

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: One of METHODS.
            route: A path of this server with placeholders for what varies, or UNMATCHED.
            status: The status of the answer.
            seconds: From the whole header having arrived to the answer being written.
        """
