"""The edge's configuration, for clusters of any shape: who is asked, in which order, how often."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from cluster import balancer, edge, launch, report
from cluster.envoy import envoy_configuration, envoy_nodes
from cluster.haproxy import haproxy_configuration
from cluster.seen import EdgeState, EdgeView
from cluster.settings import ClusterSettings, EdgeSettings, HttpSettings, NodeSettings
from cluster.vardir import VarDirectory
from docservice.http.problems import CATALOGUE

EXAMPLE = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
Value = dict[str, Any]


def planned(regions: Mapping[str, int], http: HttpSettings | None = None) -> ClusterSettings:
    """As many nodes in each region; ports as ``make up`` gives them."""
    nodes = [
        NodeSettings(
            id=f"{region}{number}",
            region=region,
            zone=f"z{number}",
            http_port=8000 + 100 * place + number,
            rpc_port=9000 + 100 * place + number,
            ops_port=10_000 + 100 * place + number,
        )
        for place, (region, count) in enumerate(regions.items(), start=1)
        for number in range(1, count + 1)
    ]
    ports = EdgeSettings(port=8080, admin_port=10_080)
    return ClusterSettings(
        cluster_id="0" * 32, edge=ports, http=http or HttpSettings(), node=tuple(nodes)
    )


https = st.builds(
    HttpSettings,
    request_timeout_ms=st.integers(1, 60_000),
    idle_timeout_s=st.floats(0.5, 1e4),
    connections_max=st.integers(1, 10_000),
)
clusters = st.builds(
    planned,
    st.dictionaries(st.sampled_from(["a", "b", "eu-1"]), st.integers(1, 4), min_size=1),
    https,
)
requests = st.tuples(
    st.sampled_from(["GET", "HEAD", "DELETE", "POST"]),
    st.booleans(),
    st.sampled_from([None, "a", "b", "eu-1", "nowhere"]),
)


def _route(listener: Value, headers: Mapping[str, str]) -> Value:
    """What Envoy would do: the first route whose headers all match."""
    (chain,) = listener["filter_chains"]
    (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        if all(_matches(one, headers) for one in route["match"]["headers"]):
            found: Value = route["route"]
            return found
    raise AssertionError("a request without a route")


def _matches(wanted: Value, headers: Mapping[str, str]) -> bool:
    found = headers.get(wanted["name"])
    if "string_match" in wanted:
        return bool(found == wanted["string_match"]["exact"])
    return bool((found is not None) != wanted.get("invert_match", False))


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


@given(clusters, requests, st.data())
def test_every_request_goes_to_its_region_and_is_repeated_only_if_that_is_harmless(
    settings: ClusterSettings, request: tuple[str, bool, str | None], data: st.DataObject
) -> None:
    """For any cluster, listener and request; the region is the header's, or the listener's."""
    method, keyed, wish = request
    headers = {":method": method}
    headers |= {edge.KEY_HEADER: "k"} if keyed else {}
    headers |= {edge.REGION_HEADER: wish} if wish else {}
    listener = data.draw(st.sampled_from(edge.listeners(settings)))
    (told,) = (
        one
        for one in envoy_configuration(settings)["static_resources"]["listeners"]
        if one["name"] == listener.name
    )

    route = _route(told, headers)

    region = wish if wish in edge.regions(settings) else listener.region
    assert route["cluster"] == edge.cluster_of(str(region))
    assert _seconds(route["timeout"]) > settings.http.request_timeout_ms / 1000
    on = set(route["retry_policy"]["retry_on"].split(","))
    if method == "POST" and not keyed:
        assert on == {"connect-failure", "reset-before-request"}
        assert "hedge_policy" not in route
        assert "per_try_timeout" not in route["retry_policy"]
    else:
        assert {"reset", "retriable-status-codes"} <= on
        assert route["hedge_policy"]["hedge_on_per_try_timeout"]


@given(clusters)
def test_envoy_knows_every_node_in_every_region_its_own_first(settings: ClusterSettings) -> None:
    """A node that is missing would be idle; one at the wrong place would pay an ocean."""
    value = envoy_configuration(settings)

    clusters = {one["name"]: one for one in value["static_resources"]["clusters"]}
    assert list(clusters) == [edge.cluster_of(region) for region in edge.regions(settings)]
    for region in edge.regions(settings):
        cluster = clusters[edge.cluster_of(region)]
        endpoints = [
            (priority["priority"], one["endpoint"])
            for priority in cluster["load_assignment"]["endpoints"]
            for one in priority["lb_endpoints"]
        ]
        known = {endpoint["hostname"]: (priority, endpoint) for priority, endpoint in endpoints}
        assert len(known) == len(endpoints) == len(settings.node)
        for node in settings.node:
            priority, endpoint = known[node.id]
            assert priority == int(node.region != region)
            assert endpoint["address"]["socket_address"]["port_value"] == node.http_port
            assert endpoint["health_check_config"]["port_value"] == node.ops_port
        # One node of a region that is up must count as a whole region.
        spare = cluster["load_assignment"]["policy"]["overprovisioning_factor"] / 100
        assert spare / len(settings.region_nodes(region)) >= 1
    assert json.loads(json.dumps(value)) == value


@given(clusters)
def test_nodes_from_a_file_are_those_of_a_configuration_that_names_them(
    settings: ClusterSettings,
) -> None:
    """The one is for a balancer that somebody else runs, the other for nodes that come and go."""
    named = envoy_configuration(settings)["static_resources"]
    files = {region: f"/run/{region}.json" for region in edge.regions(settings)}
    found = envoy_configuration(settings, files)["static_resources"]
    regions = {edge.cluster_of(region): region for region in files}

    assert named["listeners"] == found["listeners"]
    for static, dynamic in zip(named["clusters"], found["clusters"], strict=True):
        source = dynamic.pop("eds_cluster_config")["eds_config"]
        region = regions[dynamic["name"]]
        assert source["path_config_source"] == {"path": files[region]}
        assert (dynamic.pop("type"), static.pop("type")) == ("EDS", "STATIC")
        (assignment,) = envoy_nodes(settings, region)["resources"]  # Envoy refuses several
        assert assignment.pop("@type").endswith("ClusterLoadAssignment")
        assert assignment == static.pop("load_assignment")
        assert dynamic == static


def test_an_edge_that_runs_is_told_of_new_nodes_by_a_whole_file(tmp_path: Path) -> None:
    """Envoy looks when another file takes the place of the last; half a file would be refused."""
    var = VarDirectory(tmp_path)
    balancer.update_edge(var, planned({"a": 3, "b": 1}))
    assert not any(tmp_path.iterdir()), "no edge was ever started"
    var.edge_file.parent.mkdir()
    var.edge_file.write_text("{}")
    var.edge_nodes_file("a").write_text("{}")
    before = var.edge_nodes_file("a").stat().st_ino
    settings = planned({"a": 4, "b": 1})
    balancer.update_edge(var, settings)
    for region in "ab":
        file = var.edge_nodes_file(region)
        assert json.loads(file.read_text()) == envoy_nodes(settings, region)
    assert var.edge_nodes_file("a").stat().st_ino != before
    assert {path.suffix for path in var.edge_file.parent.iterdir()} == {".json"}


@given(clusters)
def test_the_edge_closes_idle_connections_before_a_node_does(settings: ClusterSettings) -> None:
    """Or a create without a key could be sent into one that is just being closed, and be lost."""
    assert edge.idle_upstream_s(settings) < settings.http.idle_timeout_s


@given(clusters)
def test_each_listener_has_a_port_of_its_own(settings: ClusterSettings) -> None:
    """The first one is the URL that is printed; the others follow it in the regions' order."""
    ports = [listener.port for listener in edge.listeners(settings)]

    assert ports == list(range(8080, 8080 + len(edge.regions(settings)) + 1))


@given(clusters)
def test_haproxy_is_told_the_same(settings: ClusterSettings) -> None:
    """Nodes, order, ports, checks, and what is never sent twice."""
    sections = _sections(haproxy_configuration(settings))

    for region in edge.regions(settings):
        backend = sections[f"backend {edge.cluster_of(region)}"]
        servers = [line.split() for line in backend if line.startswith("server ")]
        assert [words[1] for words in servers] == [
            node.id for node in edge.nearest_first(settings, region)
        ]
        nodes = {node.id: node for node in settings.node}
        for _, name, address, _, ops_port, *rest in servers:
            node = nodes[name]
            assert (address, ops_port) == (f"{node.host}:{node.http_port}", str(node.ops_port))
            assert ("backup" in rest) == (node.region != region)
        guards = [line for line in backend if line.startswith("http-request disable-l7-retry")]
        assert guards == [
            "http-request disable-l7-retry if "
            f"{{ method POST }} !{{ req.hdr({edge.KEY_HEADER}) -m found }}"
        ]
    for listener in edge.listeners(settings):
        frontend = sections[f"frontend {listener.name}"]
        assert f"bind {settings.edge.host}:{listener.port}" in frontend
        assert f"default_backend {edge.cluster_of(listener.region)}" in frontend
        named = [line for line in frontend if line.startswith("use_backend")]
        assert len(named) == len(edge.regions(settings))


def _sections(text: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(" "):
            sections[list(sections)[-1]].append(line.strip())
        elif line and not line.startswith("#"):
            sections[line] = []
    return sections


def test_the_example_for_haproxy_is_what_is_rendered() -> None:
    """What is shown must be what one gets."""
    assert EXAMPLE.read_text(encoding="utf-8") == haproxy_configuration(planned({"a": 3, "b": 3}))


@pytest.mark.parametrize("problem", edge.PROBLEMS, ids=lambda one: f"{one.code}-{one.outcome}")
def test_the_edge_has_no_problems_of_its_own(problem: edge.EdgeProblem) -> None:
    """A client looks up one catalogue, whoever answers; only the outcome may be less certain."""
    kind = CATALOGUE[problem.code]

    assert (problem.status, problem.title) == (kind.status, kind.title)
    assert problem.retryable == kind.retryable
    assert problem.outcome in {kind.outcome, "unknown"}


def test_haproxy_can_quote_what_the_edge_says() -> None:
    """The text stands in single quotes there, and is a log format in one place."""
    for problem in edge.PROBLEMS:
        assert not set("'%\\") & set(problem.title + problem.detail)


@pytest.mark.parametrize(
    ("envoy", "port", "started", "said"),
    [
        (Path("envoy"), 8080, ["edge"], ""),
        (Path("envoy"), 0, [], ""),
        (None, 0, [], ""),
        (None, 8080, [], "no edge: Envoy is not installed"),
    ],
)
def test_a_machine_without_envoy_gets_a_cluster_without_an_edge_and_one_line(
    monkeypatch: pytest.MonkeyPatch, envoy: Path | None, port: int, started: list[str], said: str
) -> None:
    """It must not keep anyone from a first cluster; and nothing is said where none was wanted."""
    monkeypatch.setattr(balancer, "find_envoy", lambda: envoy)
    settings = replace(planned({"a": 1}), edge=EdgeSettings(port=port))
    lines = io.StringIO()

    assert launch.edge_names(settings, Console(file=lines)) == started

    assert lines.getvalue().startswith(said)
    assert lines.getvalue().count("\n") == bool(said)


@pytest.mark.parametrize("state", list(EdgeState))
def test_only_an_edge_that_serves_is_shown_to_newcomers(state: EdgeState) -> None:
    """The first URL that is printed is the first that is tried."""
    view = EdgeView("http://127.0.0.1:8080", state, None, [], "")
    lines = io.StringIO()

    report.print_welcome(planned({"a": 2}), view, Console(file=lines))

    first = re.findall(r"http://[\d.:]+", lines.getvalue())[0]
    assert first == (view.url if state is EdgeState.READY else "http://127.0.0.1:8101")


@pytest.mark.parametrize("regions", [{"a": 1}, {"a": 1, "b": 2}, {"b": 1, "a": 1, "c": 1}])
def test_where_clients_in_each_region_connect_is_printed_if_there_are_several(
    regions: dict[str, int],
) -> None:
    """In one region there is nothing to choose."""
    view = EdgeView("http://127.0.0.1:8080", EdgeState.READY, None, [], "")
    lines = io.StringIO()

    report.print_welcome(planned(regions), view, Console(file=lines))

    said = re.findall(r"region (\w): (http://[\d.:]+)", lines.getvalue())
    urls = [(region, f"http://127.0.0.1:{8081 + place}") for place, region in enumerate(regions)]
    assert said == (urls if len(regions) > 1 else [])
