"""The operations listener: is this process alive, is it of use, what does it see. Loopback only."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


async def start_admin_listener(
    host: str,
    port: int,
    *,
    registry: CollectorRegistry,
    unready_reasons: Callable[[], list[str]],
    views: Mapping[str, Callable[[], dict[str, Any]]],
    actions: Mapping[str, Callable[[], dict[str, Any]]],
) -> web.AppRunner:
    """Listen; ``cleanup`` of the answer stops it.

    Args:
        unready_reasons: Why requests would mostly fail now; empty when ready.
        views: What ``GET /admin/NAME`` shows, by name.
        actions: What ``POST /admin/NAME`` begins, by name; answered with 202.

    Raises:
        OSError: the port is taken.
    """

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reasons = unready_reasons()
        body = {"ready": not reasons, "reasons": reasons}
        return web.json_response(body, status=503 if reasons else 200)

    async def versionz(_: web.Request) -> web.Response:
        return web.json_response({"version": version("stele")})

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def view(request: web.Request) -> web.Response:
        show = views.get(request.match_info["name"])
        if show is None:
            raise web.HTTPNotFound(text=f"there is {', '.join(views)}\n")
        return web.json_response({"version": version("stele"), **show()})

    async def action(request: web.Request) -> web.Response:
        begin = actions.get(request.match_info["name"])
        if begin is None:
            raise web.HTTPNotFound(text=f"there is {', '.join(actions) or 'nothing'}\n")
        return web.json_response(begin(), status=202)

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/version", versionz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/admin/{name}", view)
    app.router.add_post("/admin/{name}", action)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
