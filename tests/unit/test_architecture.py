"""The architecture as a test. To move a module, move it in ORDER first.

What can't be seen by reading one file stands here: who may import whom, who may touch the world,
and how long a file may become.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "kvnode", "docservice")

#: Lowest first: a module imports what stands before it, or beside it within one package.
#: Entry points (``__main__``) are not listed: they stand on top of everything.
ORDER = """
    cluster.ids  cluster.settings  cluster.ring  cluster.claim  cluster.ringchange
    cluster.preference
    cluster.detector  cluster.membership  cluster.layout  cluster.layoutviews
    cluster.edge  cluster.rates  cluster.regionpairs  cluster.findings  cluster.stage
    cluster.traces  cluster.operations  cluster.seen  cluster.regiondoctor  cluster.layoutdoctor
    cluster.doctor

    kvnode.errors  kvnode.record  kvnode.results  kvnode.codec  kvnode.idempotency
    kvnode.quorum  kvnode.hints  kvnode.latency  kvnode.placement  kvnode.presence
    kvnode.ending  kvnode.hashtree  kvnode.floors  kvnode.leases  kvnode.skew  kvnode.eventring
    kvnode.batching  kvnode.watermarks  kvnode.contacts

    kvnode.sampling  kvnode.calls
    kvnode.ports  kvnode.tracing  kvnode.system  kvnode.log  kvnode.sweep  kvnode.jobs

    kvnode.rpc.operations  kvnode.rpc.frames  kvnode.rpc.handshake
    kvnode.rpc.connection  kvnode.rpc.transport  kvnode.rpc.inturn

    kvnode.storage
    kvnode.lifecycle  kvnode.quarantine  kvnode.conflicts  kvnode.boots  kvnode.leaflog
    kvnode.records  kvnode.hintstore  kvnode.outbox  kvnode.standing
    kvnode.layoutstore
    kvnode.replica  kvnode.inspection  kvnode.partings

    kvnode.comparing  kvnode.agreement  kvnode.merging
    kvnode.voting  kvnode.writing  kvnode.reading  kvnode.elsewhere
    kvnode.everywhere  kvnode.keyed
    kvnode.notedpeers
    kvnode.coordinator  kvnode.coordinating  kvnode.notedcalls  kvnode.notedanswers
    kvnode.services  kvnode.traceviews
    kvnode.regionhandlers  kvnode.handlers  kvnode.health
    kvnode.adoption  kvnode.changing  kvnode.node  kvnode.drains  kvnode.regionviews
    kvnode.layoutviews  kvnode.status  kvnode.ringviews
    kvnode.otlp  kvnode.metrics  kvnode.callmetrics  kvnode.layoutmetrics
    kvnode.eventstream  kvnode.console.glance  kvnode.console.overview  kvnode.console.plots
    kvnode.console.watch  kvnode.console.markup  kvnode.console.happenings
    kvnode.console.sections  kvnode.console.inspector  kvnode.console.pages  kvnode.console
    kvnode.origins  kvnode.admin  kvnode.client
    kvnode.leaving

    docservice.client.errors  docservice.client.model  docservice.client.endpoints
    docservice.client.retrying  docservice.client.session  docservice.client.wire
    docservice.client.transport  docservice.client.aio  docservice.client.sync  docservice.client
    docservice.session  docservice.store  docservice.documents  docservice.notedstore
    docservice.meteredstore  docservice.http  docservice.serving

    cluster.interrupts  cluster.refusal  cluster.envoy  cluster.haproxy  cluster.prometheus
    cluster.topology  cluster.secret  cluster.clusterfile
    cluster.ports  cluster.vardir  cluster.processes  cluster.answers
    cluster.startup
    cluster.balancer  cluster.status  cluster.launch  cluster.examination  cluster.repair
    cluster.changes  cluster.growth
    cluster.report  cluster.timeline  cluster.following  cluster.requests
    cluster.commands
"""
LAYERS = ORDER.split()

#: Decisions: values in, values out. No IO, no clock, no randomness, no event loop, no log.
PURITY = """
    cluster.ids cluster.settings cluster.ring cluster.claim cluster.preference cluster.detector
    cluster.membership cluster.ringchange cluster.layout cluster.layoutviews cluster.refusal
    cluster.clusterfile cluster.edge cluster.envoy cluster.haproxy cluster.prometheus cluster.rates
    cluster.timeline cluster.regionpairs cluster.stage cluster.traces
    kvnode.errors kvnode.record kvnode.results kvnode.codec kvnode.idempotency kvnode.quorum
    kvnode.hints kvnode.latency kvnode.placement kvnode.presence kvnode.ending kvnode.hashtree
    kvnode.floors kvnode.ports kvnode.lifecycle kvnode.quarantine kvnode.leaflog kvnode.records
    kvnode.conflicts kvnode.hintstore kvnode.outbox kvnode.standing kvnode.layoutstore
    kvnode.batching kvnode.watermarks kvnode.contacts kvnode.jobs kvnode.leases kvnode.skew
    kvnode.eventring kvnode.sampling kvnode.tracing kvnode.calls
    kvnode.rpc.operations kvnode.rpc.frames kvnode.rpc.handshake kvnode.storage.keys
    kvnode.storage.identity kvnode.storage.ranges kvnode.services.budget docservice.store
    docservice.session docservice.documents docservice.notedstore docservice.client.errors
    docservice.client.model docservice.client.retrying docservice.client.session
    docservice.client.wire
"""
PURE = PURITY.split()
WORLD = """
    aiohttp asyncio concurrent fcntl http io logging multiprocessing os pathlib plyvel random
    secrets select selectors shutil signal socket ssl structlog subprocess sys tempfile threading
    time uuid uvloop
"""
IMPURE = WORLD.split()

#: All of the store that the document service may know: an engine or a protocol can change unseen.
OPEN_TO_DOCSERVICE = {
    "kvnode.errors",
    "kvnode.idempotency",
    "kvnode.ports",
    "kvnode.record",
    "kvnode.results",
    "kvnode.sampling",
    "kvnode.tracing",
}

#: The tools of an operator's machine. They wait for processes and write files; no node runs them.
TOOLS = LAYERS[LAYERS.index("cluster.interrupts") :]
#: Who may ask the world, and for what. Everybody else gets a Clock, an Entropy or an Engine.
ADAPTERS = {
    "time": ["kvnode.system", "kvnode.storage.leveldb", *TOOLS],
    "random": ["kvnode.system", "docservice.client"],
    "secrets": ["docservice.client", *TOOLS],
    "uuid": [],
    "os": ["kvnode.system", "kvnode.storage", "kvnode.__main__", *TOOLS],
    "threading": [
        "kvnode.storage.leveldb",
        "cluster.following",
        "docservice.client.sync",
    ],
    "subprocess": TOOLS,
    "socket": TOOLS,
    "signal": ["kvnode.leaving", *TOOLS],
    "plyvel": ["kvnode.storage.leveldb", "kvnode.storage.database"],
    "uvloop": ["kvnode.__main__", "docservice.__main__"],
    "aiohttp": [
        "kvnode.origins",
        "kvnode.admin",
        "kvnode.eventstream",
        "kvnode.console.pages",
        "kvnode.console.watch",
        "docservice.http",
        "docservice.client.transport",
    ],
    "structlog": ["kvnode.log", "docservice.http.replies"],
}

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70


def _parse(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(), filename=str(path))


#: By name, each of the project's modules.
MODULES = dict(module for package in PACKAGES for module in _parse(package))


def within(module: str, names: list[str] | set[str]) -> bool:
    """Whether a module is one of these, or in one of these packages."""
    return any(f"{module}.".startswith(f"{name}.") for name in names)


def layer(module: str) -> int:
    """Position in ORDER; the packages themselves, which are only names, are at the bottom."""
    if module.endswith(".__main__"):
        return len(LAYERS)
    found = [i for i, name in enumerate(LAYERS) if within(module, {name})]
    assert found or MODULES[module].body[1:] == [], f"{module} has no place in ORDER"
    return found[0] if found else -1


def _only_for_types(tree: ast.Module) -> list[ast.stmt]:
    """What stands under ``if TYPE_CHECKING``: it imports nothing when the program runs."""
    return [
        inner
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in node.body
    ]


def imports(module: str) -> Iterator[str]:
    """Every module that a module imports when the program runs, wherever the import stands."""
    tree = MODULES[module]
    skipped = _only_for_types(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node not in skipped:
            assert node.level == 0, f"{module}: relative imports hide a layer"
            origin = node.module or ""
            submodules = {f"{origin}.{alias.name}" for alias in node.names} & MODULES.keys()
            yield from sorted(submodules) or [origin]


PAIRS = [(importer, imported) for importer in MODULES for imported in imports(importer)]
OUR_PAIRS = [(a, b) for a, b in PAIRS if within(b, set(PACKAGES))]


def offenders(breaks: Callable[[ast.AST], bool]) -> list[str]:
    """module:line of every node that breaks a rule."""
    return [
        f"{module}:{node.lineno}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.expr | ast.stmt) and breaks(node)
    ]


def test_the_order_names_what_exists() -> None:
    """A module that is gone must go from the map as well."""
    assert [name for name in [*LAYERS, *PURE] if name not in MODULES] == []


def test_no_import_points_up() -> None:
    """A cycle between modules needs an upward import, so this rules out both."""
    assert [(a, b) for a, b in OUR_PAIRS if layer(b) > layer(a)] == []


def test_docservice_stands_on_kvnode_and_kvnode_on_cluster() -> None:
    """The other way round only entry points reach, and the tools start processes by name."""
    seen = {(a.split(".")[0], b.split(".")[0]) for a, b in OUR_PAIRS if not a.endswith(".__main__")}
    assert {pair for pair in seen if pair[0] != pair[1]} == {
        ("docservice", "kvnode"),
        ("docservice", "cluster"),
        ("kvnode", "cluster"),
    }


def test_pure_modules_do_no_io_and_read_no_clock() -> None:
    """What a decision cannot import, a property test never has to fake."""
    assert [(a, b) for a, b in PAIRS if a in PURE and within(b, set(IMPURE))] == []


def test_pure_modules_build_on_pure_modules_only() -> None:
    """A clock at second hand is a clock."""
    assert [(a, b) for a, b in OUR_PAIRS if a in PURE and b not in PURE] == []


def test_docservice_knows_the_store_only_by_its_values() -> None:
    """Otherwise a change of storage or protocol would reach the HTTP edge."""
    seen = {b for a, b in OUR_PAIRS if a.startswith("docservice") and b.startswith("kvnode")}
    entry = set(imports("docservice.__main__"))
    assert seen - entry <= OPEN_TO_DOCSERVICE


def test_no_part_of_a_node_knows_the_operators_tools() -> None:
    """A node must run where nobody can start processes or see a directory of all nodes."""
    nodes = [pair for pair in OUR_PAIRS if not pair[0].endswith(".__main__")]
    assert [(a, b) for a, b in nodes if within(b, TOOLS) and not within(a, TOOLS)] == []


def test_the_client_needs_nothing_of_the_server() -> None:
    """Whoever uses it must not have to install a storage engine."""
    seen = {b for a, b in PAIRS if within(a, {"docservice.client"})}
    foreign = {b.split(".")[0] for b in seen if not within(b, {"docservice.client"})}
    assert foreign - sys.stdlib_module_names == {"aiohttp", "msgspec"}


def test_only_the_replica_and_the_boot_reach_the_engine() -> None:
    """One door: whatever changes a stored record goes through ``Replica.join``.

    Records, hints, quarantine, conflicts and boots are rooms behind it.
    """
    rooms = {
        "kvnode.records",
        "kvnode.hintstore",
        "kvnode.outbox",
        "kvnode.quarantine",
        "kvnode.conflicts",
        "kvnode.boots",
        "kvnode.leaflog",
        "kvnode.standing",
        "kvnode.layoutstore",
    }
    doors = {"kvnode.replica", "kvnode.node", "kvnode.storage", "kvnode.__main__", "kvnode.ports"}
    doors |= rooms
    engines = {"Engine", "LevelDBEngine", "MemoryEngine", "GroupCommit"}

    def names_an_engine(node: ast.AST) -> bool:
        return (isinstance(node, ast.Name) and node.id in engines) or (
            isinstance(node, ast.Attribute) and node.attr in {"engine", "_engine"}
        )

    seen = {place.split(":")[0] for place in offenders(names_an_engine)}
    assert {module for module in seen if not within(module, doors)} == set()


def test_the_node_itself_only_boots_and_closes_the_engine() -> None:
    """It is handed the engine to pass it on."""
    calls = [
        ast.unparse(node.func)
        for node in ast.walk(MODULES["kvnode.node"])
        if isinstance(node, ast.Call) and "_engine" in ast.unparse(node.func)
    ]
    assert calls == ["self._engine.close"]


def test_services_never_import_the_coordinator() -> None:
    """Background work must not compete with clients through their own door."""
    seen = {b for a, b in OUR_PAIRS if a.startswith("kvnode.services")}
    assert seen & {"kvnode.coordinator", "kvnode.writing", "kvnode.reading"} == set()


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_world_is_asked_only_by_adapters(name: str) -> None:
    """The simulation has its own clock, entropy, disk and network: nobody may go around them."""
    importers = [a for a, b in PAIRS if within(b, {name})]
    assert [module for module in importers if not within(module, ADAPTERS[name])] == []


def test_nobody_opens_files_or_asks_the_date_besides_adapters() -> None:
    """``open`` and ``datetime.now`` need no telling import."""
    banned = {"open", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}

    def asks(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func) in banned

    assert [place for place in offenders(asks) if not within(place.split(":")[0], TOOLS)] == []


def test_no_state_lives_in_a_module() -> None:
    """A whole cluster runs in one interpreter: what nodes shared would be seen by all of them."""

    def is_shared(node: ast.AST) -> bool:
        return isinstance(node, ast.Global)

    assert offenders(is_shared) == []
    empty = [
        f"{module}: {ast.unparse(node)}"
        for module, tree in MODULES.items()
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and ast.unparse(node.value) in {"[]", "{}", "set()", "dict()", "list()", "deque()"}
    ]
    assert empty == []


def test_no_order_depends_on_hashing() -> None:
    """Iterating over a set is another order in every process, and another history of every seed."""

    def iterates_over_a_set(node: ast.AST) -> bool:
        loops = [node] if isinstance(node, ast.For) else getattr(node, "generators", [])
        over = [loop.iter for loop in loops]
        return any(
            isinstance(one, ast.Set | ast.SetComp)
            or (isinstance(one, ast.Call) and ast.unparse(one.func) in {"set", "frozenset"})
            for one in over
        )

    assert offenders(iterates_over_a_set) == []


def test_files_stay_short_enough_to_be_read() -> None:
    """One file, one mechanism; beyond this it is two."""
    lines = {
        path.relative_to(ROOT): path.read_text().count("\n")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    assert {path: count for path, count in lines.items() if count > FILE_LINES_MAX} == {}


def test_functions_stay_short_enough_to_be_seen_whole() -> None:
    """On one screen."""
    too_long = [
        f"{module}.{node.name}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert too_long == []


def test_every_module_opens_with_what_it_is_for() -> None:
    """The docstring is where its theory and its rules stand."""
    assert [module for module, tree in MODULES.items() if not ast.get_docstring(tree)] == []
