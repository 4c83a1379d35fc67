"""Letting a few through, where all would be too many."""


class Sampler:
    """Lets a few through each second, and counts the others."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._second_from_s = float("-inf")
        self._let_through = 0
        self._left_out = 0

    def admit(self, now_s: float) -> int | None:
        """None: leave this one out. Otherwise how many were, since the last one let through."""
        if now_s - self._second_from_s >= 1.0:
            self._second_from_s = now_s
            self._let_through = 0
        if self._let_through >= self._per_s:
            self._left_out += 1
            return None
        self._let_through += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
