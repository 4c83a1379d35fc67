"""The least that an HTTP server of this kind costs: ``python -m scripts.bench.yardstick``.

aiohttp on uvloop, two routes, no middleware, no access log; every answer is the same bytes from
memory. Prints its port, then serves until it is terminated.
"""

import asyncio
import sys
from pathlib import Path

import uvloop
from aiohttp import web

_JSON = "application/json"


def bare_application(document: bytes, created: bytes) -> web.Application:
    """Answers every read with ``document`` and every create, when it is read, with ``created``."""

    async def get(_request: web.Request) -> web.Response:
        return web.Response(body=document, content_type=_JSON)

    async def post(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=201, body=created, content_type=_JSON)

    application = web.Application()
    application.router.add_get("/documents/{id}", get, allow_head=False)
    application.router.add_post("/documents", post)
    return application


async def _serve(application: web.Application) -> None:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve the bytes in two files, the document's and the create's."""
    document, created = (Path(name).read_bytes() for name in sys.argv[1:])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(bare_application(document, created)))


if __name__ == "__main__":
    main()
