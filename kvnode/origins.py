"""Which web pages may use the operations listener: its own console, and no other.

Whatever page a browser on this machine shows can send requests to loopback addresses. It can't read
the answers, but a POST has done its work by then.

Rules
-----
1. What operators see and do is there under loopback names only, so that no name of another site
   can be pointed here (DNS rebinding).
2. What changes something is refused when the browser says that another origin's page sends it:
   by Sec-Fetch-Site, or by Origin, which older browsers send with it as well. curl, the ``stele``
   command and programs send neither.

Sources: Fetch Metadata Request Headers, W3C; RFC 6454, section 7.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

_GUARDED: Final = ("/admin/", "/ui")
#: Of the header Host.
_LOOPBACK: Final = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?")
_HARMLESS: Final = frozenset({"GET", "HEAD"})
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def own_pages_only(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Refuse with 403 what the rules forbid."""
    if request.path.startswith(_GUARDED) and not _LOOPBACK.fullmatch(request.host):
        raise web.HTTPForbidden(text="This answers to loopback addresses and localhost only.\n")
    if request.method not in _HARMLESS and _is_foreign(request):
        raise web.HTTPForbidden(text="A page of another site has sent this: refused.\n")
    return await handler(request)


def _is_foreign(request: web.Request) -> bool:
    own = f"{request.scheme}://{request.host}"
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    # "none": typed, or opened from a bookmark. No page does that.
    return site not in {"same-origin", "none"} or request.headers.get("Origin", own) != own
