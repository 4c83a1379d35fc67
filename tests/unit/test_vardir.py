"""VAR: created in full or not at all, and never at the cost of what Stele did not make."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.secret import read_secret
from cluster.settings import ClusterSettings
from cluster.topology import plan_cluster
from cluster.vardir import VarDirectory, VarError

SETTINGS: ClusterSettings = plan_cluster(
    cluster_id="0123456789abcdef" * 2, nodes=3, regions=1, port_base=8000, config=None
)


class PowerCut(Exception):
    """The creation ends here."""


@pytest.fixture
def var(tmp_path: Path) -> VarDirectory:
    """An empty directory, as ``make up`` finds it."""
    root = tmp_path / "var"
    root.mkdir()
    return VarDirectory(root)


def _initialise(var: VarDirectory, fail_after: int = 99) -> None:
    def initialise(cluster_file: Path) -> None:
        assert cluster_file.exists()
        for number, node in enumerate(SETTINGS.node):
            if number == fail_after:
                raise PowerCut
            var.node_directory(node.id).mkdir()

    var.create(SETTINGS, initialise)


def test_a_created_cluster_has_its_file_its_secret_and_a_directory_for_each_node(
    var: VarDirectory,
) -> None:
    """What a node is started with."""
    _initialise(var)

    assert var.settings() == SETTINGS
    assert read_secret(var.secret_file)
    assert all(var.node_directory(node.id).is_dir() for node in SETTINGS.node)
    assert sorted(path.name for path in var.root.iterdir()) == [
        "cluster.secret",
        "cluster.toml",
        "log",
        "nodes",
        "run",
    ]


@given(fail_after=st.integers(0, 2))
def test_a_creation_that_was_interrupted_begins_again(
    tmp_path_factory: pytest.TempPathFactory, fail_after: int
) -> None:
    """Ctrl-C in the middle of the first start must not ask for a clean-up by hand."""
    var = VarDirectory(tmp_path_factory.mktemp("var"))
    with pytest.raises(PowerCut):
        _initialise(var, fail_after)
    assert not var.has_cluster()

    _initialise(var)

    assert var.settings() == SETTINGS


def test_a_lost_cluster_file_never_leads_to_a_new_cluster_over_the_old_documents(
    var: VarDirectory,
) -> None:
    """The difference to an interrupted creation is what saves them."""
    _initialise(var)
    document = var.node_directory("a1") / "000005.ldb"
    document.write_text("a document")
    var.cluster_file.unlink()

    with pytest.raises(VarError, match=r"but no cluster\.toml; restore that file"):
        _initialise(var)

    assert document.exists()


def test_a_directory_with_other_files_is_neither_created_in_nor_cleaned(var: VarDirectory) -> None:
    """VAR=~ is a typing mistake."""
    diary = var.root / "diary.txt"
    diary.write_text("dear diary")

    with pytest.raises(VarError, match="holds no cluster; choose an empty or new directory"):
        _initialise(var)
    with pytest.raises(VarError, match="so nothing was removed"):
        var.remove()

    assert [path.name for path in var.root.iterdir()] == ["diary.txt"]


def test_removing_a_cluster_leaves_what_is_not_its_own(var: VarDirectory) -> None:
    """Also behind a link: the disk that it points to is not VAR's."""
    _initialise(var)
    elsewhere = var.root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    notes = var.root / "notes.txt"
    notes.touch()
    var.node_directory("a3").rmdir()
    var.node_directory("a3").symlink_to(elsewhere)

    assert var.remove() == [notes]

    assert [path.name for path in var.root.iterdir()] == ["notes.txt"]
    assert (elsewhere / "kept").exists()


def test_a_removal_that_was_interrupted_can_be_repeated(
    var: VarDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster file goes last, for it is what says that the rest may go."""
    _initialise(var)

    def cut(path: Path) -> None:
        raise PowerCut(path)

    with monkeypatch.context() as patched:
        patched.setattr("cluster.vardir.shutil.rmtree", cut)
        with pytest.raises(PowerCut):
            var.remove()
    assert var.has_cluster()

    assert var.remove() == []
    assert list(var.root.iterdir()) == []


def test_two_commands_exclude_each_other_and_leave_no_empty_directory(tmp_path: Path) -> None:
    """Two first starts at once would otherwise mix two clusters in one directory."""
    var = VarDirectory(tmp_path / "deep" / "var")
    with pytest.raises(VarError, match="there is no cluster"), var.locked():
        pass
    with var.locked(make=True):
        with pytest.raises(VarError, match="another command is at work"), var.locked():
            pass
        assert var.root.exists()

    assert not var.root.exists()
    with var.locked(make=True):
        _initialise(var)
    with var.locked():
        assert var.settings() == SETTINGS


def test_a_file_in_the_place_of_var_is_refused(tmp_path: Path) -> None:
    """The sentence names it; no traceback."""
    (tmp_path / "var").touch()
    var = VarDirectory(tmp_path / "var")

    with pytest.raises(VarError, match="cannot be used"), var.locked(make=True):
        pass


def test_commands_are_shown_as_they_must_be_typed_for_this_var() -> None:
    """An advice that acts on another cluster would be worse than none."""
    assert VarDirectory(Path("var")).command("make down") == "`make down`"
    assert VarDirectory(Path("/x")).command("make down") == "`make down VAR=/x`"
    assert VarDirectory(Path("/x")).command("stele start a2") == "`stele start a2 --var /x`"
