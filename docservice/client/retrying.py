"""Whether a failed request is sent again, and when.

Rules
-----
1. The error decides: ``SteleError.is_transient``. Every request may be repeated: a create is sent
   with the same idempotency key each time, reads and deletes change nothing by being repeated.
2. All tries of a request end by one deadline.
3. Waits double from try to try and are drawn from the whole interval: clients that failed together
   do not return together.
4. Retries come out of a budget that requests fill, so that a cluster that is in trouble gets a
   tenth more requests, and not several times as many.

Source of rules 3 and 4: Brooker, "Exponential backoff and jitter", 2015; Beyer et al., "Site
Reliability Engineering", chapter 21.
"""

import msgspec


class Retrying(msgspec.Struct, frozen=True, kw_only=True):
    """How a client repeats requests."""

    #: For one try; it tells the server a little less, to hear its refusal rather than nothing.
    try_timeout_s: float = 2.0
    backoff_s_min: float = 0.05
    backoff_s_max: float = 2.0
    #: Retries that each request adds to the budget, and how many the budget holds.
    budget_share: float = 0.1
    budget_max: float = 20.0

    def backoff_s(self, retry: int, drawn: float) -> float:
        """How long to wait before a retry.

        Args:
            retry: 0 for the first one.
            drawn: From 0 to 1.
        """
        # 2.0**64 s is longer than any backoff, and a float of any larger power may overflow.
        longest_s = min(self.backoff_s_min * 2.0 ** min(retry, 64), self.backoff_s_max)
        return longest_s * drawn


class Budget:
    """The retries that are left to a client."""

    def __init__(self, retrying: Retrying) -> None:
        self._share = retrying.budget_share
        self._max = retrying.budget_max
        self._left = retrying.budget_max
        #: Retries so far.
        self.spent_count = 0

    def earn(self) -> None:
        """A request is made."""
        self._left = min(self._left + self._share, self._max)

    def spend(self) -> bool:
        """Take one retry out, if there is one."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        self.spent_count += 1
        return True
