"""The cluster file: what is written reads back, and what is wrong is refused in one sentence."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.clusterfile import WHY, render_cluster_file
from cluster.secret import SECRET_BYTES, create_secret, read_secret
from cluster.settings import (
    ClusterSettings,
    GossipSettings,
    HttpSettings,
    NodeSettings,
    Quorum,
    ReplicationSettings,
    StorageSettings,
)
from cluster.topology import (
    NODES_MAX,
    TopologyError,
    overridden,
    plan_cluster,
    read_cluster_file,
)

CLUSTER_ID = "0123456789abcdef" * 2

names: tuple[Literal["one", "quorum", "all"], ...] = ("one", "quorum", "all")
quorums: st.SearchStrategy[Quorum] = st.sampled_from(names) | st.integers(1, 3)
seconds = st.floats(0.001, 1e9)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def clusters(draw: st.DrawFn) -> ClusterSettings:
    """Settings that are sound, with values of every type."""
    planned = _plan(nodes=draw(st.integers(3, 5)), port_base=draw(st.integers(1, 60_000)))
    return msgspec.structs.replace(
        planned,
        replication=ReplicationSettings(
            copies=3,
            read_quorum=draw(quorums),
            write_quorum=draw(quorums),
            sloppy=draw(st.booleans()),
            partitions=1 << draw(st.integers(0, 12)),
        ),
        storage=StorageSettings(
            fsync=draw(st.sampled_from(["always", "interval", "os"])),
            ballast_bytes=draw(st.integers(0, 2**62)),
        ),
        gossip=GossipSettings(interval_s=draw(seconds)),
        http=HttpSettings(idle_timeout_s=draw(seconds)),
    )


# TOML's own types, and values near the bounds of many settings.
wrong_values = (
    st.none()
    | st.booleans()
    | st.integers(-2, 10)
    | st.integers()
    | st.floats()
    | texts
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.sampled_from(["copies", "x"]), st.integers(), max_size=1)
)
tables = [name for name in ClusterSettings.__struct_fields__ if name not in ("cluster_id", "node")]


def _plan(
    *, nodes: int = 3, regions: int = 1, port_base: int = 8000, config: Path | None = None
) -> ClusterSettings:
    return plan_cluster(
        cluster_id=CLUSTER_ID, nodes=nodes, regions=regions, port_base=port_base, config=config
    )


def _file(directory: Path, text: str, name: str = "some.toml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


@given(clusters())
def test_a_written_cluster_file_reads_back_as_the_same_settings(
    tmp_path_factory: pytest.TempPathFactory, settings: ClusterSettings
) -> None:
    """An operator edits this file: whatever it says must be what runs."""
    path = _file(tmp_path_factory.mktemp("var"), render_cluster_file(settings))

    assert read_cluster_file(path) == settings


def test_every_setting_stands_in_the_file_with_its_reason_and_default() -> None:
    """A setting without its line could only be found by reading the source."""
    text = render_cluster_file(_plan())
    parsed = tomllib.loads(text)
    settings = {f"{table}.{key}" for table in tables for key in parsed[table]}

    assert settings == set(WHY)
    assert len(re.findall(r"\bDefault\s", text)) == len(WHY)
    assert max(map(len, text.splitlines())) <= 100


@given(st.integers(1, NODES_MAX), st.integers(1, 63_000))
def test_a_planned_cluster_has_a_name_a_zone_and_ports_of_its_own_for_each_node(
    nodes: int, port_base: int
) -> None:
    """Several clusters run side by side, so no port may lie outside what PORT_BASE promises."""
    settings = _plan(nodes=nodes, port_base=port_base)

    assert [node.id for node in settings.node] == [f"a{n}" for n in range(1, nodes + 1)]
    assert [node.zone for node in settings.node[:4]] == ["z1", "z2", "z3", "z1"][:nodes]
    assert [node.http_port for node in settings.node] == [
        port_base + 100 + n for n in range(1, nodes + 1)
    ]
    assert all(node.rpc_port == node.http_port + 1000 for node in settings.node)
    assert all(node.ops_port == node.http_port + 2000 for node in settings.node)
    assert settings.replication.copies == min(3, nodes)


@given(st.sampled_from(tables), st.data())
def test_any_value_in_any_place_is_taken_or_refused_in_one_sentence_that_names_it(
    tmp_path_factory: pytest.TempPathFactory, table: str, data: st.DataObject
) -> None:
    """No bad value may end in a traceback, a default taken silently, or a riddle."""
    raw = msgspec.to_builtins(_plan())
    key = data.draw(st.sampled_from(sorted(raw[table])))
    value = data.draw(wrong_values)
    lines = [f"[{table}]", f"{key} = {_toml(value)}"]
    config = _file(tmp_path_factory.mktemp("config"), "\n".join(lines))

    try:
        settings = _plan(config=config)
    except TopologyError as error:
        sentence = str(error)
        assert sentence.startswith(f"{config}: ")
        assert f"{table}.{key}" in sentence or (value is None and "TOML" in sentence)
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert " - at `" not in sentence  # the decoder's own words
    else:
        taken = getattr(getattr(settings, table), key)
        # A number of seconds is a float: large integers are taken as the nearest one.
        assert taken == (float(str(value)) if isinstance(taken, float) else value)


def _toml(value: object) -> str:
    if value is None:
        return "null"  # JSON's word, which TOML has not
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {item}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return str(value)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            "[replication]\ncopeis = 2",
            "replication has an unknown key copeis (did you mean copies?); correct or remove it.",
        ),
        (
            "[replication]\ncopies = 0",
            "replication.copies must be a whole number from 1 to 9, not 0.",
        ),
        (
            "[replication]\nread_quorum = 'most'",
            'replication.read_quorum must be "all" or "one" or "quorum" or a whole number of at '
            'least 1, not "most".',
        ),
        (
            "[replication]\nwrite_quorum = 4",
            "replication.write_quorum = 4 can never be met with replication.copies = 3; use 1 to "
            "3, or raise copies.",
        ),
        (
            "[replication]\npartitions = 100",
            "replication.partitions = 100 must be a power of two; use 64.",
        ),
        (
            "[replication]\ncopies = 4",
            "replication.copies = 4 needs as many nodes in region a, which has 3; lower copies or "
            "add nodes.",
        ),
        (
            "[lifecycle]\ntombstone_retention_s = 4",
            "lifecycle.tombstone_retention_s = 4 must be at least lifecycle.clock_skew_max_s = 5.",
        ),
        ("[gossip]\ninterval_s = inf", "gossip.interval_s = inf must be a finite number."),
        ("[gossip]\ninterval_s = 0", "gossip.interval_s must be a number above 0, not 0."),
        ("gossip = 5", "gossip must be a table, not 5."),
        ("[[node]]", "node cannot be set here, it comes from NODES; remove it."),
        (
            'cluster_id = "x"',
            "cluster_id cannot be set here, it comes from the cluster file; remove it.",
        ),
        (
            "[gossip",
            "is not valid TOML: Expected ']' at the end of a table declaration (at end of "
            "document); correct it there.",
        ),
    ],
)
def test_a_bad_config_is_refused_with_the_key_and_what_is_allowed(
    tmp_path: Path, config: str, sentence: str
) -> None:
    """These are the sentences that operators read; each says what to type instead."""
    path = _file(tmp_path, config)

    with pytest.raises(TopologyError, match=re.escape(f"{path}: {sentence}")):
        _plan(config=path)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('id = "a2"', 'id = "a1"', "two nodes are called a1"),
        ("http_port = 8102", "http_port = 8101", "http_port of node a1 and http_port of node a2"),
        ("rpc_port = 9102", "rpc_port = 8103", "rpc_port of node a2 and http_port of node a3"),
        ('1\nhost = "127.0.0.1"', '1\nhost = "0.0.0.0"', 'a1 has host = "0.0.0.0"'),
        ('1\nhost = "127.0.0.1"', '1\nhost = "example.org"', 'write host = "127.0.0.1"'),
        ('host = "127.0.0.1"\n#', 'host = "0.0.0.0"\n#', 'edge.host = "0.0.0.0", but without TLS'),
        ("port = 8080", "port = 8100", "node a1 and edge-a both have port 8101"),
        ("port = 8080", "port = 10079", "edge-a and edge.admin_port both have port 10080"),
        ("admin_port = 10080", "admin_port = 0", "edge.admin_port = 0 is no port"),
        ("port = 8080", "port = 65535", "edge-a = 65536 is no port"),
        ('id = "a2"', 'id = "edge"', 'a node is called "edge", as the load balancer is'),
        ('zone = "z1"', 'zone = ""', "zone of node number 1 must be 1 to 32 lower-case"),
        ('zone = "z1"\n', "", "node number 1 has no zone; add it"),
        ('id = "a2"\nregion = "a"', 'id = "a2"\nregion = "b"', "this version runs one region"),
        ("rpc_port = 9101", "rpc_port = 0", "rpc_port of node number 1 must be a whole number"),
        (f'cluster_id = "{CLUSTER_ID}"', "", "there is no cluster_id"),
        ("copies = 3", "copies = 3\ncopies = 2", "is not valid TOML"),
    ],
)
def test_an_edit_that_breaks_the_cluster_file_is_refused(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    """The file is edited by hand, so each mistake is named where it was made."""
    text = render_cluster_file(_plan())
    assert old in text
    path = _file(tmp_path, text.replace(old, new, 1))

    with pytest.raises(TopologyError, match=re.escape(complaint)) as caught:
        read_cluster_file(path)

    assert str(caught.value).startswith(f"{path}: ")


def test_a_cluster_file_without_nodes_is_refused(tmp_path: Path) -> None:
    """Everything after it may then rely on a first node."""
    path = _file(tmp_path, f'cluster_id = "{CLUSTER_ID}"\nnode = []')

    with pytest.raises(TopologyError, match="add at least one"):
        read_cluster_file(path)


def test_what_is_not_a_readable_text_file_is_refused(tmp_path: Path) -> None:
    """Whatever is at the path, the answer is a sentence."""
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'cluster_id = "\xe9"')

    for path, complaint in ((tmp_path / "none.toml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(TopologyError, match=complaint):
            read_cluster_file(path)
    with pytest.raises(TopologyError, match="not valid UTF-8"):
        read_cluster_file(latin)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_every_loopback_address_is_taken(tmp_path: Path, host: str) -> None:
    """The rule is about who can connect, not about one spelling."""
    text = render_cluster_file(_plan()).replace('"127.0.0.1"', f'"{host}"')

    assert read_cluster_file(_file(tmp_path, text)).node[0].host == host


def test_one_port_on_two_addresses_is_no_conflict(tmp_path: Path) -> None:
    """127.0.0.1 and 127.0.0.2 are two listeners."""
    text = render_cluster_file(_plan())
    before, mark, second = text.partition('id = "a2"')
    second = second.replace("127.0.0.1", "127.0.0.2", 1).replace("8102", "8101", 1)

    read_cluster_file(_file(tmp_path, before + mark + second))


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        (lambda: _plan(nodes=0), "NODES=0: a cluster has 1 to 99 nodes."),
        (lambda: _plan(nodes=100), "NODES=100: a cluster has 1 to 99 nodes."),
        (lambda: _plan(regions=2), "REGIONS=2: this version runs one region; leave REGIONS out."),
        (
            lambda: _plan(port_base=64_000),
            "PORT_BASE=64000: 3 nodes need a port base from 1 to 63432.",
        ),
        (lambda: _plan(port_base=0), "PORT_BASE=0: 3 nodes need a port base from 1 to 63432."),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_by_its_argument(
    plan: Callable[[], ClusterSettings], complaint: str
) -> None:
    """The words are those of the command line, because that is where they were typed."""
    with pytest.raises(TopologyError, match=f"^{re.escape(complaint)}$"):
        plan()


def test_config_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    """A test that makes a month last seconds must not lose the other defaults of the table."""
    config = _file(tmp_path, "[lifecycle]\ntombstone_retention_s = 7\n[replication]\ncopies = 2\n")

    settings = _plan(config=config)

    assert settings.lifecycle.tombstone_retention_s == 7
    assert settings.lifecycle.clock_skew_max_s == _plan().lifecycle.clock_skew_max_s
    assert settings.replication == msgspec.structs.replace(_plan().replication, copies=2)


def test_a_config_that_agrees_with_a_cluster_changes_nothing(tmp_path: Path) -> None:
    """So the same command line can start a cluster again, and another one is noticed."""
    config = _file(tmp_path, "[gossip]\ninterval_s = 0.2\n")
    settings = _plan(config=config)

    assert overridden(settings, config) == settings
    assert overridden(settings, _file(tmp_path, "[gossip]\ninterval_s = 3\n", "b")) != settings


def test_nodes_of_a_region_keep_the_order_of_the_file() -> None:
    """Ring and ports are computed from it, on every node alike."""
    assert [node.id for node in _plan().region_nodes("a")] == ["a1", "a2", "a3"]
    assert isinstance(_plan().node[0], NodeSettings)


def test_a_new_secret_is_random_and_its_owners_alone(tmp_path: Path) -> None:
    """Who can read it can join the cluster."""
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        create_secret(path)

    assert [path.stat().st_mode & 0o777 for path in paths] == [0o600, 0o600]
    assert len({read_secret(path) for path in paths}) == 2
    assert [len(read_secret(path)) for path in paths] == [SECRET_BYTES, SECRET_BYTES]
    with pytest.raises(FileExistsError):
        create_secret(paths[0])


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620])
def test_a_secret_that_others_can_reach_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    """It may have been copied; and a secret that others can write is theirs."""
    path = tmp_path / "secret"
    create_secret(path)
    path.chmod(mode)

    with pytest.raises(TopologyError, match=re.escape(f"run `chmod 600 {path}`.")):
        read_secret(path)


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"zz" * 32, b"\xff" * 64, b"00" * 33])
def test_a_damaged_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    """A short secret would work, and be weak."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(TopologyError, match="must be 64 hexadecimal digits"):
        read_secret(path)
    with pytest.raises(TopologyError, match="cannot be read"):
        read_secret(tmp_path / "none")


@given(st.integers(1, 60_000))
def test_a_planned_edge_has_its_ports_beside_those_of_the_nodes(port_base: int) -> None:
    """One URL for clients at PORT_BASE + 80, statistics as far behind it as a node's."""
    settings = _plan(port_base=port_base)

    assert settings.edge.port == port_base + 80
    assert settings.edge.admin_port == port_base + 2080


def test_a_cluster_can_do_without_an_edge(tmp_path: Path) -> None:
    """Port 0, which counts for planned and for edited files alike."""
    assert _plan(config=_file(tmp_path, "[edge]\nport = 0")).edge.port == 0
