"""``/ui``: the console's page, what feeds it, and what can be done from it.

Rules
-----
1. The page comes whole from here, as it is at that moment, and holds no script, style or picture of
   its own or from elsewhere: its Content-Security-Policy allows this origin's files only.
2. ``/ui/live`` sends each section whose HTML has changed, once a second, as server-sent events. A
   reader that takes nothing for STALLED_S is cut off; its browser comes back by itself.
3. Documents go through the node's own data listener, as any client's do. Pages of other sites are
   kept out by ``kvnode.origins``.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from cluster.ids import DocumentId, parse_document_id
from cluster.layout import Rings
from cluster.settings import ClusterSettings, NodeSettings
from cluster.traces import TracesView
from kvnode.console.inspector import inspected
from kvnode.console.sections import sections
from kvnode.console.watch import Watch
from kvnode.ports import Clock

READERS_MAX: Final = 16
STALLED_S: Final = 10.0
#: Of a request to the data listener; it answers sooner.
_DOCUMENT_TIMEOUT_S: Final = 15.0
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES: Final = {
    "style.css": "text/css",
    "script.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


class Console:
    """The console of one node.

    Args:
        glance: This node at one glance, behind an event (``kvnode.console.glance``).
        owners: What each node holds of a document.
        traces: ``kvnode.traceviews.TraceViews.listed``.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        own: NodeSettings,
        rings: Rings,
        clock: Clock,
        *,
        glance: Callable[[str | None], dict[str, Any]],
        owners: Callable[[DocumentId], Awaitable[dict[str, Any]]],
        traces: Callable[[Mapping[str, str]], Awaitable[dict[str, Any]]],
    ) -> None:
        self._own = own
        self._glance = glance
        self._owners = owners
        self._traces = traces
        self._watch = Watch(settings, rings, clock)
        self._readers = 0
        here = files("kvnode.console")
        self._page = here.joinpath("page.html").read_text(encoding="utf-8")
        self._files = {name: here.joinpath(name).read_text(encoding="utf-8") for name in _FILES}

    def add_routes(self, app: web.Application) -> None:
        """Serve all of it."""

        async def stop(_: web.Application) -> None:
            await self._watch.stop()

        app.on_shutdown.append(stop)
        router = app.router
        router.add_get("/ui", self._show)
        router.add_get("/ui/live", self._live)
        router.add_get("/ui/glance", self._tell)
        router.add_get("/ui/inspect/{id}", self._inspect)
        router.add_post("/ui/documents", self._document)
        router.add_get("/ui/documents/{id}", self._document)
        router.add_delete("/ui/documents/{id}", self._document)
        router.add_get("/ui/{file}", self._file)

    async def _show(self, _: web.Request) -> web.Response:
        async with self._watch.reading():
            if not self._watch.is_fresh:
                await self._watch.tick()
        page = self._page.replace("<!-- node -->", self._own.id)
        for name, html in sections(self._watch).items():
            page = page.replace(f"<!-- {name} -->", html)
        return web.Response(text=page, content_type="text/html", headers=_HEADERS)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name not in self._files:
            raise web.HTTPNotFound(text="there is /ui\n")
        return web.Response(text=self._files[name], content_type=_FILES[name], headers=_HEADERS)

    async def _tell(self, request: web.Request) -> web.Response:
        return web.json_response(self._glance(request.query.get("after")), headers=_HEADERS)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if self._readers >= READERS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{READERS_MAX} consoles are served already\n")
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        self._readers += 1
        try:
            await response.prepare(request)
            async with self._watch.reading():
                await self._feed(response)
        except (ConnectionResetError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._readers -= 1
        return response

    async def _feed(self, response: web.StreamResponse) -> None:
        """Until the reader goes, or takes nothing, or this process stops."""
        sent: dict[str, str] = {}
        while not self._watch.stopped:
            now = sections(self._watch)
            changed = {name: html for name, html in now.items() if sent.get(name) != html}
            sent = now
            async with asyncio.timeout(STALLED_S):
                await response.write(f"data: {json.dumps(changed)}\n\n".encode())
            await self._watch.tick()

    async def _inspect(self, request: web.Request) -> web.Response:
        document_id = parse_document_id(request.match_info["id"])
        if document_id is None:
            raise web.HTTPBadRequest(text="An id is a UUID in lower case with hyphens.")
        async with self._watch.reading():
            await self._watch.tick()  # what has happened until now is known then
        owners = await self._owners(document_id)
        found = await self._traces({"document": request.match_info["id"]})
        traces = msgspec.convert(found, TracesView).traces
        html = inspected(owners, traces[::-1], self._watch.events)
        return web.Response(text=html, content_type="text/html", headers=_HEADERS)

    async def _document(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/ui")
        url = f"http://{self._own.host}:{self._own.http_port}{path}"
        names = ("Content-Type", "Idempotency-Key")
        headers = {name: request.headers[name] for name in names if name in request.headers}
        timeout = aiohttp.ClientTimeout(total=_DOCUMENT_TIMEOUT_S)
        body = await request.read()
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as client,
                client.request(request.method, url, data=body or None, headers=headers) as answer,
            ):
                return web.Response(
                    status=answer.status,
                    body=await answer.read(),
                    headers={**_HEADERS, "Content-Type": "application/json"},
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise web.HTTPBadGateway(text=f"The data listener does not answer: {error}") from error
