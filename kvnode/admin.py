"""The operations listener: is this process alive, is it of use, what does it see. Loopback only."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cluster.ids import DocumentId, parse_document_id
from kvnode.console.pages import Console
from kvnode.errors import Malformed, Refused
from kvnode.eventring import EventRing
from kvnode.eventstream import EventStreams
from kvnode.health import MEMBERSHIP, Check, Weight, troubles
from kvnode.jobs import Job, Jobs
from kvnode.origins import own_pages_only
from kvnode.regionviews import Deed
from kvnode.traceviews import BadQuery, TraceViews

_Offered = TypeVar("_Offered")
#: What is shown of one document.
DocumentView = Callable[[DocumentId], Awaitable[dict[str, Any]]]


class Operations(msgspec.Struct):
    """What one process offers its operators."""

    registry: CollectorRegistry
    #: What can be wrong with this process, and what is.
    checks: Callable[[], list[Check]]
    #: What ``GET /admin/NAME`` shows, by name.
    views: Mapping[str, Callable[[], dict[str, Any]]]
    #: What ``GET /admin/NAME/ID`` shows of a document, by name.
    document_views: Mapping[str, DocumentView]
    #: What ``POST /admin/NAME`` begins, by name; answered with 202 and the job.
    actions: Mapping[str, Callable[[], Job]]
    #: What ``/admin/jobs`` shows, and ``DELETE /admin/jobs/ID`` calls off.
    jobs: Jobs
    #: What ``/admin/events`` tells.
    events: EventRing
    #: What ``/admin/traces`` shows.
    traces: TraceViews
    #: What ``POST /admin/NAME/WHAT`` does at once, by name; answered when it is on disk.
    deeds: Mapping[str, Deed] = {}
    #: What ``POST /admin/nodes/ID/NAME`` begins, by name; answered with 202 and the job.
    undertakings: Mapping[str, Callable[[str], Job]] = {}
    #: What ``POST /admin/layout/WHAT`` does with its body, by WHAT: it answers, or begins a job.
    layout: Mapping[str, Callable[[bytes], Job | msgspec.Struct]] = {}
    #: What ``DELETE /admin/nodes/ID/NAME`` takes back, by name; answered as ``/readyz`` is then.
    returns: Mapping[str, Callable[[str], None]] = {}
    #: What ``/ui`` shows.
    console: Console | None = None


async def start_admin_listener(host: str, port: int, operations: Operations) -> web.AppRunner:
    """Listen; ``cleanup`` of the answer stops it. Raises OSError: the port is taken."""
    pages = _Pages(operations)
    streams = EventStreams(operations.events)

    async def end_streams(_: web.Application) -> None:
        streams.stop()

    app = web.Application(middlewares=[own_pages_only])
    app.on_shutdown.append(end_streams)
    app.router.add_get("/livez", pages.livez)
    app.router.add_get("/readyz", pages.readyz)
    app.router.add_get("/version", pages.version)
    app.router.add_get("/metrics", pages.metrics)
    app.router.add_get("/admin/jobs", pages.jobs)
    app.router.add_get("/admin/jobs/{id}", pages.job)
    app.router.add_delete("/admin/jobs/{id}", pages.cancel)
    app.router.add_get("/admin/events", streams.serve)
    app.router.add_get("/admin/traces", pages.traces)
    app.router.add_get("/admin/traces/{id}", pages.trace)
    app.router.add_get("/admin/{name}", pages.view)
    app.router.add_get("/admin/{name}/{id}", pages.document_view)
    app.router.add_post("/admin/layout/{what}", pages.change_layout)
    app.router.add_post("/admin/{name}", pages.action)
    app.router.add_post("/admin/{name}/{what}", pages.deed)
    app.router.add_post("/admin/nodes/{id}/{name}", pages.undertake)
    app.router.add_delete("/admin/nodes/{id}/{name}", pages.take_back)
    if operations.console is not None:
        operations.console.add_routes(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


class _Pages:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        checks = self._operations.checks()
        body = _readiness(checks)
        if "verbose" in request.query:
            body["checks"] = [
                {"ok": not check.trouble, **msgspec.to_builtins(check)} for check in checks
            ]
        return web.json_response(body, status=200 if body["ready"] else 503)

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": version("stele")})

    async def metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._operations.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def view(self, request: web.Request) -> web.Response:
        show = self._operations.views.get(request.match_info["name"])
        if show is None:
            there_is = [*self._operations.views, "jobs", "events", "traces"]
            there_is += [f"{name}/ID" for name in self._operations.document_views]
            raise web.HTTPNotFound(text=f"there is {', '.join(there_is)}\n")
        return web.json_response({"version": version("stele"), **show()})

    async def document_view(self, request: web.Request) -> web.Response:
        show = self._operations.document_views.get(request.match_info["name"])
        if show is None:
            there_is = ", ".join(self._operations.document_views) or "nothing"
            raise web.HTTPNotFound(text=f"of a document there is {there_is}\n")
        document_id = parse_document_id(request.match_info["id"])
        if document_id is None:
            raise web.HTTPBadRequest(text="an id is a UUID in lower case with hyphens\n")
        return web.json_response(await show(document_id))

    async def action(self, request: web.Request) -> web.Response:
        begin = self._operations.actions.get(request.match_info["name"])
        if begin is None:
            there_is = ", ".join(self._operations.actions) or "nothing"
            raise web.HTTPNotFound(text=f"there is {there_is}\n")
        return self._begun(begin)

    async def undertake(self, request: web.Request) -> web.Response:
        begin = _named(self._operations.undertakings, request)
        return self._begun(partial(begin, request.match_info["id"]))

    async def take_back(self, request: web.Request) -> web.Response:
        end = _named(self._operations.returns, request)
        try:
            end(request.match_info["id"])
        except Refused as error:
            raise web.HTTPConflict(text=f"{error}\n") from error
        return web.json_response(_readiness(self._operations.checks()))

    def _begun(self, begin: Callable[[], Job]) -> web.Response:
        try:
            return self._job_begun(begin())
        except Refused as error:
            raise web.HTTPConflict(text=f"{error}\n") from error

    def _job_begun(self, job: Job) -> web.Response:
        return web.json_response(
            self._operations.jobs.view(job),
            status=202,
            headers={"Location": f"/admin/jobs/{job.id}"},
        )

    async def change_layout(self, request: web.Request) -> web.Response:
        do = self._operations.layout.get(request.match_info["what"])
        if do is None:
            there_is = ", ".join(f"layout/{what}" for what in self._operations.layout) or "nothing"
            raise web.HTTPNotFound(text=f"there is {there_is}\n")
        try:
            done = do(await request.read())
        except Malformed as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        except Refused as error:
            raise web.HTTPConflict(text=f"{error}\n") from error
        if isinstance(done, Job):
            return self._job_begun(done)
        return web.json_response(msgspec.to_builtins(done))

    async def deed(self, request: web.Request) -> web.Response:
        do = self._operations.deeds.get(request.match_info["name"])
        if do is None:
            there_is = ", ".join(f"{name}/WHAT" for name in self._operations.deeds) or "nothing"
            raise web.HTTPNotFound(text=f"there is {there_is}\n")
        try:
            return web.json_response(await do(request.match_info["what"]))
        except Refused as error:
            raise web.HTTPConflict(text=f"{error}\n") from error

    async def jobs(self, _: web.Request) -> web.Response:
        jobs = self._operations.jobs
        return web.json_response({"jobs": [jobs.view(job) for job in jobs.all()]})

    async def job(self, request: web.Request) -> web.Response:
        return web.json_response(self._operations.jobs.view(self._found(request)))

    async def cancel(self, request: web.Request) -> web.Response:
        job = self._found(request)
        try:
            self._operations.jobs.cancel(job)
        except Refused as error:
            raise web.HTTPConflict(text=f"{error}\n") from error
        return web.json_response(self._operations.jobs.view(job))

    async def traces(self, request: web.Request) -> web.Response:
        try:
            shown = await self._operations.traces.listed(request.query)
        except BadQuery as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.json_response({"version": version("stele"), **shown})

    async def trace(self, request: web.Request) -> web.Response:
        try:
            trace = await self._operations.traces.trace(request.match_info["id"])
        except BadQuery as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        status = 200 if trace["traces"] else 404
        return web.json_response({"version": version("stele"), **trace}, status=status)

    def _found(self, request: web.Request) -> Job:
        job = self._operations.jobs.find(request.match_info["id"])
        if job is None:
            raise web.HTTPNotFound(text="no such job, or it ended long ago; see /admin/jobs\n")
        return job


def _readiness(checks: list[Check]) -> dict[str, Any]:
    reasons = troubles(checks, Weight.UNREADY)
    takes_part = not any(check.trouble for check in checks if check.name == MEMBERSHIP)
    return {"ready": not reasons, "reasons": reasons, "takes_part": takes_part}


def _named(offered: Mapping[str, _Offered], request: web.Request) -> _Offered:
    """What a path of a node is about."""
    found = offered.get(request.match_info["name"])
    if found is None:
        there_is = ", ".join(f"nodes/ID/{name}" for name in offered) or "nothing"
        raise web.HTTPNotFound(text=f"there is {there_is}\n")
    return found
