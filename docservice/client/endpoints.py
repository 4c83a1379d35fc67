"""Which server is asked: a near one that has answered, else another, else a far one.

Rules
-----
1. A server that did not answer is suspect for a while, longer each time; a suspect is asked only
   when nobody else is left. One answer clears it.
2. A server that asks to be left alone (Retry-After) is; the others are asked meanwhile.
3. Of the servers of the nearest region that has a good one, two are drawn and the one that answers
   faster is taken: load spreads, and a slow server gets little of it.

Source of rule 3: Mitzenmacher, "The power of two choices in randomized load balancing", 2001.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

SUSPECT_S_MIN: Final = 0.5
SUSPECT_S_MAX: Final = 30.0
#: Weight of the newest latency in the average.
_NEWEST: Final = 0.2


class Endpoint:
    """One server. Made by ``Endpoints``."""

    def __init__(self, url: str, region: str, distance: int) -> None:
        self.url = url
        self.region = region
        #: 0 in the preferred region, then in the order in which regions were named.
        self.distance = distance
        self.failures = 0
        self.suspect_until_s = 0.0
        self.rests_until_s = 0.0
        self.latency_s = 0.0


class Endpoints:
    """All servers that a client knows.

    Args:
        by_region: URLs, by region; the regions nearest first.
        region: The preferred region; None: the first.
        random: Draws who is asked.
    """

    def __init__(
        self, by_region: Mapping[str, Sequence[str]], region: str | None, random: Random
    ) -> None:
        if region is not None and region not in by_region:
            raise ValueError(f"there is no region {region!r}: {', '.join(by_region)}")
        regions = sorted(by_region, key=lambda name: name != region)
        self._all = [
            Endpoint(url.rstrip("/"), name, distance)
            for distance, name in enumerate(regions)
            for url in by_region[name]
        ]
        if not self._all:
            raise ValueError("no endpoint is given")
        self._random = random

    def choose(self, now_s: float, tried: Sequence[Endpoint] = ()) -> tuple[Endpoint, float]:
        """Whom to ask, and how long to wait before.

        Args:
            now_s: A reading of a monotonic clock.
            tried: Who has failed for this request; is asked again when all have.
        """

        def rank(endpoint: Endpoint) -> tuple[bool, bool, int, int]:
            return (
                endpoint.rests_until_s > now_s,
                endpoint.suspect_until_s > now_s,
                sum(endpoint is one for one in tried),
                endpoint.distance,
            )

        ranks = [rank(endpoint) for endpoint in self._all]
        best = min(ranks)
        good = [one for one, its in zip(self._all, ranks, strict=True) if its == best]
        if best[0]:
            chosen = min(good, key=lambda one: one.rests_until_s)
            return chosen, chosen.rests_until_s - now_s
        drawn = self._random.sample(good, min(2, len(good)))
        return min(drawn, key=lambda one: one.latency_s), 0.0

    def beside(self, endpoint: Endpoint) -> list[Endpoint]:
        """The others of its region."""
        return [one for one in self._all if one.region == endpoint.region and one is not endpoint]

    def answered(self, endpoint: Endpoint, latency_s: float) -> None:
        """It is well."""
        endpoint.failures = 0
        endpoint.suspect_until_s = 0.0
        weight = _NEWEST if endpoint.latency_s else 1.0
        endpoint.latency_s += weight * (latency_s - endpoint.latency_s)

    def failed(self, endpoint: Endpoint, now_s: float) -> None:
        """It did not answer."""
        suspect_s = min(SUSPECT_S_MIN * 2.0**endpoint.failures, SUSPECT_S_MAX)
        endpoint.failures += 1
        endpoint.suspect_until_s = now_s + suspect_s

    def rests(self, endpoint: Endpoint, until_s: float) -> None:
        """It asked to be left alone until then."""
        endpoint.rests_until_s = max(endpoint.rests_until_s, until_s)
