"""The edge in Envoy's words: a cluster file becomes a bootstrap configuration, as a plain value.

Envoy reads it as JSON. What it means stands in ``cluster.edge``; here stands how Envoy is told. Of
its own, Envoy brings: the second request to another node while the first one is still waited for
(``hedge_policy``), so that a node which hangs costs a client half a second and not its deadline.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from cluster import edge
from cluster.edge import EdgeProblem, Listener
from cluster.settings import ClusterSettings, NodeSettings

_TYPES: Final = "type.googleapis.com/envoy"
#: Trying again picks among all nodes; this often it picks anew when it was one that has failed.
_PICKS_MAX: Final = 5

Value = dict[str, Any]


def _seconds(seconds: float) -> str:
    return f"{seconds:.9g}s"


_HEALTH_CHECK: Final[Value] = {
    "interval": _seconds(edge.CHECK_INTERVAL_S),
    "no_traffic_interval": _seconds(edge.CHECK_INTERVAL_S),
    "timeout": _seconds(edge.CHECK_TIMEOUT_S),
    "unhealthy_threshold": edge.CHECKS_UNANSWERED_MAX,
    "healthy_threshold": 1,
    "http_health_check": {"path": edge.READY_PATH},
}
_OUTLIER_DETECTION: Final[Value] = {
    "consecutive_gateway_failure": edge.FAILURES_MAX,
    "enforcing_consecutive_gateway_failure": 100,
    "enforcing_consecutive_5xx": 0,
    "enforcing_success_rate": 0,
    "interval": _seconds(edge.CHECK_INTERVAL_S),
    "base_ejection_time": _seconds(edge.LEFT_OUT_S),
    "max_ejection_time": _seconds(edge.LEFT_OUT_S),
    "max_ejection_percent": edge.LEFT_OUT_PERCENT_MAX,
    # A node that says it is well does not come back before its time: its connections fail.
    "successful_active_health_check_uneject_host": False,
}


def envoy_configuration(
    settings: ClusterSettings, nodes_files: Mapping[str, str] | None = None
) -> Value:
    """Envoy's bootstrap for the edge of a cluster.

    Args:
        nodes_files: By region, where it is to look for the nodes whenever another file is put there
            (``envoy_nodes``). None: the nodes are those of the cluster file, for good.
    """
    host = settings.edge.host
    return {
        "node": {"id": edge.EDGE, "cluster": "stele"},
        "admin": {"address": _address(host, settings.edge.admin_port)},
        "overload_manager": {
            "resource_monitors": [
                _named(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    {
                        "@type": _type(
                            "extensions.resource_monitors.downstream_connections.v3",
                            "DownstreamConnectionsConfig",
                        ),
                        "max_active_downstream_connections": edge.clients_max(settings),
                    },
                )
            ]
        },
        "static_resources": {
            "listeners": [_listener(settings, one) for one in edge.listeners(settings)],
            "clusters": [
                _cluster(settings, region) | _whom(settings, region, nodes_files)
                for region in edge.regions(settings)
            ],
        },
    }


def envoy_nodes(settings: ClusterSettings, region: str) -> Value:
    """The nodes behind a region's listener, as Envoy reads them from a file of their own."""
    kind = _type("config.endpoint.v3", "ClusterLoadAssignment")
    return {"resources": [{"@type": kind, **_assignment(settings, region)}]}


def _listener(settings: ClusterSettings, listener: Listener) -> Value:
    return {
        "name": listener.name,
        "address": _address(settings.edge.host, listener.port),
        "filter_chains": [{"filters": [_named("http", _http(settings, listener))]}],
    }


def _http(settings: ClusterSettings, listener: Listener) -> Value:
    http = settings.http
    return {
        "@type": _type(
            "extensions.filters.network.http_connection_manager.v3", "HttpConnectionManager"
        ),
        "stat_prefix": listener.name,
        # The nodes compare a target as it was sent, and name their answers themselves.
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        # Who connects is not believed when it says for whom.
        "use_remote_address": True,
        "internal_address_config": {"unix_sockets": False},
        "request_headers_timeout": _seconds(http.header_timeout_s),
        "request_timeout": _seconds(http.header_timeout_s + http.body_timeout_s),
        "stream_idle_timeout": _seconds(edge.patience_s(settings) + http.body_timeout_s),
        "common_http_protocol_options": {"idle_timeout": _seconds(http.idle_timeout_s)},
        "local_reply_config": {"mappers": list(_replies())},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": listener.name,
                    "domains": ["*"],
                    "routes": list(_routes(settings, listener)),
                }
            ]
        },
        "http_filters": [
            _named(
                "health_check",
                {
                    "@type": _type("extensions.filters.http.health_check.v3", "HealthCheck"),
                    "pass_through_mode": False,
                    "cluster_min_healthy_percentages": {
                        edge.cluster_of(listener.region): {"value": 1}
                    },
                    "headers": [_header(":path", edge.READY_PATH)],
                },
            ),
            _named(
                "router",
                {
                    "@type": _type("extensions.filters.http.router.v3", "Router"),
                    "suppress_envoy_headers": True,
                },
            ),
        ],
    }


def _routes(settings: ClusterSettings, listener: Listener) -> Iterator[Value]:
    """The first that matches counts: named regions before the listener's, repeatable after not."""
    regions = edge.regions(settings)
    for region, named in [*((one, True) for one in regions), (listener.region, False)]:
        hint = [_header(edge.REGION_HEADER, region)] if named else []
        keyless = [
            _header(":method", "POST"),
            _header(edge.KEY_HEADER, None) | {"invert_match": True},
        ]
        route = {"cluster": edge.cluster_of(region), "timeout": _seconds(edge.patience_s(settings))}
        yield {
            "match": {"prefix": "/", "headers": [*hint, *keyless]},
            "route": route | {"retry_policy": _retries("connect-failure,reset-before-request")},
        }
        repeatable = _retries("connect-failure,reset,refused-stream,retriable-status-codes") | {
            "retriable_status_codes": [edge.UNAVAILABLE.status],
            "per_try_timeout": _seconds(edge.SILENCE_S),
        }
        yield {
            "match": {"prefix": "/", "headers": hint},
            "route": route
            | {
                "retry_policy": repeatable,
                "hedge_policy": {"hedge_on_per_try_timeout": True},
            },
        }


def _retries(on: str) -> Value:
    return {
        "retry_on": on,
        "num_retries": edge.RETRIES_MAX,
        "retry_back_off": {"base_interval": _seconds(0.01), "max_interval": _seconds(0.1)},
        "retry_host_predicate": [
            _named(
                "envoy.retry_host_predicates.previous_hosts",
                {
                    "@type": _type(
                        "extensions.retry.host.previous_hosts.v3", "PreviousHostsPredicate"
                    )
                },
            )
        ],
        # Two nodes of a region that fail may be all of it: the last attempt goes to another.
        "retry_priority": _named(
            "envoy.retry_priorities.previous_priorities",
            {
                "@type": _type(
                    "extensions.retry.priority.previous_priorities.v3", "PreviousPrioritiesConfig"
                ),
                "update_frequency": edge.RETRIES_MAX,
            },
        ),
        "host_selection_retry_max_attempts": _PICKS_MAX,
    }


def _cluster(settings: ClusterSettings, region: str) -> Value:
    """A region and, behind it, all others."""
    nodes = len(settings.node)
    limit = nodes * edge.connections_per_node(settings)
    budget = {
        "budget_percent": {"value": edge.RETRY_SHARE_PERCENT},
        "min_retry_concurrency": edge.RETRIES_ALLOWED_MIN,
    }
    thresholds = {
        "max_connections": limit,
        "max_requests": limit,
        "max_pending_requests": limit,
        "retry_budget": budget,
    }
    return {
        "name": edge.cluster_of(region),
        "connect_timeout": _seconds(edge.CONNECT_TIMEOUT_S),
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {
            # Better no node than one that says it can't.
            "healthy_panic_threshold": {"value": 0},
            # What a node says counts at once; Envoy would gather such news for a second.
            "update_merge_window": _seconds(0),
        },
        # One that was taken out of the file has left its region before.
        "ignore_health_on_host_removal": True,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _type("extensions.upstreams.http.v3", "HttpProtocolOptions"),
                "common_http_protocol_options": {
                    "idle_timeout": _seconds(edge.idle_upstream_s(settings))
                },
                "explicit_http_config": {"http_protocol_options": {}},
                # No answer counts against a node, as none sends this status: what is left are
                # connections that break, or say nothing.
                "outlier_detection": {
                    "error_matcher": {
                        "http_response_headers_match": {
                            "headers": [_header(":status", str(edge.NODE_LOST.status))]
                        }
                    }
                },
            }
        },
        "circuit_breakers": {"thresholds": [thresholds]},
        "health_checks": [_HEALTH_CHECK],
        "outlier_detection": _OUTLIER_DETECTION,
    }


def _whom(settings: ClusterSettings, region: str, nodes_files: Mapping[str, str] | None) -> Value:
    if nodes_files is None:
        return {"type": "STATIC", "load_assignment": _assignment(settings, region)}
    source = {"path_config_source": {"path": nodes_files[region]}, "resource_api_version": "V3"}
    return {"type": "EDS", "eds_cluster_config": {"eds_config": source}}


def _assignment(settings: ClusterSettings, region: str) -> Value:
    return {
        "cluster_name": edge.cluster_of(region),
        # One node of the own region that can take requests is enough to stay there.
        "policy": {"overprovisioning_factor": 100 * len(settings.node)},
        "endpoints": list(_priorities(settings, region)),
    }


def _priorities(settings: ClusterSettings, region: str) -> Iterator[Value]:
    here = settings.region_nodes(region)
    elsewhere = tuple(node for node in settings.node if node.region != region)
    for priority, nodes in enumerate((here, elsewhere) if elsewhere else (here,)):
        yield {"priority": priority, "lb_endpoints": [_endpoint(node) for node in nodes]}


def _endpoint(node: NodeSettings) -> Value:
    return {
        "endpoint": {
            "hostname": node.id,
            "address": _address(node.host, node.http_port),
            "health_check_config": {"port_value": node.ops_port},
        },
        "load_balancing_weight": max(1, round(node.weight)),
    }


def _replies() -> Iterator[Value]:
    """What Envoy says when no node does, as a problem with its outcome."""
    unreachable = _flags("UH", "UF", "URX")
    repeated = {
        "or_filter": {
            "filters": [
                {"header_filter": {"header": header}}
                for header in (_header(":method", "DELETE"), _header(edge.KEY_HEADER, None))
            ]
        }
    }
    for when, problem in (
        (_flags("UO"), edge.OVERLOADED),
        (_flags("UT"), edge.NO_ANSWER),
        (_flags("UC", "UR", "UPE"), edge.NODE_LOST),
        ({"and_filter": {"filters": [unreachable, repeated]}}, edge.UNAVAILABLE_AT_LAST),
        (unreachable, edge.UNAVAILABLE),
    ):
        yield _reply(when, problem)
    for problem in (edge.MALFORMED, edge.TOO_SLOW, edge.HEADERS_TOO_LARGE):
        comparison = {"op": "EQ", "value": {"default_value": problem.status, "runtime_key": "_"}}
        yield _reply({"status_code_filter": {"comparison": comparison}}, problem)


def _reply(when: Value, problem: EdgeProblem) -> Value:
    return {
        "filter": when,
        "status_code": problem.status,
        "headers_to_add": [
            {
                "header": {"key": "cache-control", "value": "no-store"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "body_format_override": {
            "json_format": edge.problem_body(problem),
            "content_type": edge.PROBLEM_TYPE,
        },
    }


def _flags(*flags: str) -> Value:
    """Envoy's words for what went wrong, as ``%RESPONSE_FLAGS%`` has them."""
    return {"response_flag_filter": {"flags": list(flags)}}


def _address(host: str, port: int) -> Value:
    number = "127.0.0.1" if host == "localhost" else host  # Envoy looks no names up here
    return {"socket_address": {"address": number, "port_value": port}}


def _header(name: str, value: str | None) -> Value:
    """A header has this value, or any."""
    return {"name": name} | (
        {"present_match": True} if value is None else {"string_match": {"exact": value}}
    )


def _named(name: str, config: Value) -> Value:
    return {"name": name, "typed_config": config}


def _type(package: str, message: str) -> str:
    return f"{_TYPES}.{package}.{message}"
