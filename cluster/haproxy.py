"""The edge in HAProxy's words: a cluster file becomes the text of a configuration.

What it means stands in ``cluster.edge``. HAProxy can't send a request to a second node while it
waits for the first, so a request that may be repeated is given up after ``TRY_S`` and sent anew.
A node to which no connection can be made is out at once, and back when the next check succeeds.
"""

import json
from typing import Final

from cluster import edge
from cluster.edge import EdgeProblem, Listener
from cluster.settings import ClusterSettings, NodeSettings

#: Shorter than a node's deadline, or a node that hangs would use up all of it.
TRY_S: Final = 2.0
_WEIGHT_MAX: Final = 256
#: Holds the largest create with its headers.
_REQUEST_BYTES_MAX: Final = 32 * 1024
_OUTCOME: Final = "txn.outcome"
_CREATE: Final = "{ method POST }"
_KEYED: Final = f"{{ req.hdr({edge.KEY_HEADER}) -m found }}"
_PROBLEMS: Final = (
    edge.UNAVAILABLE,
    edge.NODE_LOST,
    edge.NO_ANSWER,
    edge.MALFORMED,
    edge.TOO_SLOW,
)

_HEAD: Final = """\
# The edge of a Stele cluster for HAProxy 2.6 or newer, written by `stele edge config --for haproxy`
# from the cluster file. What it does and why: docs/edge.md.
"""


def haproxy_configuration(settings: ClusterSettings) -> str:
    """The text of haproxy.cfg for the edge of a cluster."""
    sections = [
        # How many connections it takes, HAProxy sees by how many files it may open.
        ("global", [f"tune.bufsize {_REQUEST_BYTES_MAX}"]),
        _defaults(settings),
        *(_frontend(settings, listener) for listener in edge.listeners(settings)),
        _statistics(settings),
        *(_backend(settings, region) for region in edge.regions(settings)),
    ]
    return _HEAD + "".join(
        f"\n{title}\n" + "".join(f"    {line}\n" for line in lines) for title, lines in sections
    )


Section = tuple[str, list[str]]


def _defaults(settings: ClusterSettings) -> Section:
    http = settings.http
    return "defaults", [
        "mode http",
        f"timeout connect {_ms(edge.CONNECT_TIMEOUT_S)}",
        f"timeout client {_ms(edge.patience_s(settings) + http.body_timeout_s)}",
        f"timeout http-request {_ms(http.header_timeout_s + http.body_timeout_s)}",
        f"timeout http-keep-alive {_ms(http.idle_timeout_s)}",
        f"timeout queue {_ms(edge.CONNECT_TIMEOUT_S)}",
        "# Of a create without a key; what may be repeated has a shorter one, see the backends.",
        f"timeout server {_ms(edge.patience_s(settings))}",
        "# A connection that may break while a request is sent is not used for one that can't be",
        "# repeated.",
        "http-reuse safe",
        "# Only what is here as a whole can be sent again.",
        "option http-buffer-request",
        "# Another node at every attempt. What may not be repeated is only connected again.",
        "option redispatch 1",
        f"retries {edge.RETRIES_MAX}",
        f"retry-on conn-failure empty-response response-timeout {edge.UNAVAILABLE.status}",
        f"timeout check {_ms(edge.CHECK_TIMEOUT_S)}",
        "option httpchk",
        f"http-check send meth GET uri {edge.READY_PATH}",
        "http-check expect status 200",
        " ".join(
            (
                f"default-server check inter {_ms(edge.CHECK_INTERVAL_S)}",
                f"fastinter {_ms(edge.CHECK_INTERVAL_S / 2)} fall {edge.CHECKS_UNANSWERED_MAX}",
                "rise 1 observe layer4 error-limit 1 on-error mark-down",
            )
        ),
        *(_reply(problem) for problem in _PROBLEMS),
    ]


def _frontend(settings: ClusterSettings, listener: Listener) -> Section:
    regions = edge.regions(settings)
    here = edge.cluster_of(listener.region)
    return f"frontend {listener.name}", [
        f"bind {_bind(settings.edge.host, listener.port)}",
        f"monitor-uri {edge.READY_PATH}",
        f"monitor fail if {{ nbsrv({here}) lt 1 }}",
        # What 503 says: see `http-error status 503`.
        f"http-request set-var({_OUTCOME}) str({edge.UNAVAILABLE.outcome})",
        f"http-request set-var({_OUTCOME}) str({edge.UNAVAILABLE_AT_LAST.outcome})"
        f" if {{ method DELETE }} or {_KEYED}",
        *(
            f"use_backend {edge.cluster_of(region)} if {{ req.hdr({edge.REGION_HEADER}) {region} }}"
            for region in regions
        ),
        f"default_backend {here}",
    ]


def _statistics(settings: ClusterSettings) -> Section:
    return "frontend statistics", [
        f"bind {_bind(settings.edge.host, settings.edge.admin_port)}",
        "http-request use-service prometheus-exporter if { path /metrics }",
        "stats enable",
        "stats uri /",
    ]


def _backend(settings: ClusterSettings, region: str) -> Section:
    return f"backend {edge.cluster_of(region)}", [
        "# Not leastconn: a node that breaks its connections would always have the fewest.",
        "balance roundrobin",
        "option allbackups",
        f"http-request disable-l7-retry if {_CREATE} !{_KEYED}",
        f"http-request set-timeout server {_ms(TRY_S)} if !{_CREATE} or {_KEYED}",
        *(
            _server(settings, node, backup=node.region != region)
            for node in edge.nearest_first(settings, region)
        ),
    ]


def _server(settings: ClusterSettings, node: NodeSettings, *, backup: bool) -> str:
    weight = min(_WEIGHT_MAX, max(1, round(node.weight)))
    return (
        f"server {node.id} {_bind(node.host, node.http_port)} port {node.ops_port}"
        f" weight {weight} maxconn {edge.connections_per_node(settings)}"
        f"{' backup' if backup else ''}"
    )


def _reply(problem: EdgeProblem) -> str:
    """HAProxy tells what went wrong by status alone; what was done is in a variable."""
    body = edge.problem_body(problem)
    kind = "string"
    if problem is edge.UNAVAILABLE:
        kind, body["outcome"] = "lf-string", f"%[var({_OUTCOME})]"
        body["detail"] = "No node could be reached. Send it again after a moment."
    text = json.dumps(body, separators=(",", ":"))
    return (
        f"http-error status {problem.status} content-type {edge.PROBLEM_TYPE} "
        f"{kind} '{text}' hdr cache-control no-store"
    )


def _bind(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
