"""What the kernel's files say, read right."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scripts.bench.cpu import parse_ticks
from scripts.bench.machine import cpu_model, file_system_of

MOUNTS = [
    "/dev/vda / ext4 rw,relatime 0 0",
    "tmpfs /tmp tmpfs rw 0 0",
    "/dev/vdb /tmp/disk xfs rw 0 0",
    "/dev/vdc /data ext4 rw 0 0",
    "none /data tmpfs rw 0 0",
]


@given(
    st.text(st.characters(exclude_characters="\n")), st.integers(0, 2**40), st.integers(0, 2**40)
)
@example(") S 7 (", 1, 2)
def test_both_cpu_times_are_found_behind_any_program_name(
    name: str, user_ticks: int, system_ticks: int
) -> None:
    """The name stands before them unescaped and may hold blanks and parentheses."""
    stat = f"4711 ({name}) S 1 2 3 4 5 6 7 8 9 10 {user_ticks} {system_ticks} 99 98 20 0 4 0 12345"

    assert parse_ticks(stat) == user_ticks + system_ticks


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/work/bench", "ext4"),
        ("/tmp/bench", "tmpfs"),
        ("/tmp/disk/bench", "xfs"),
        ("/tmpfile", "ext4"),
        ("/data/bench", "tmpfs"),
    ],
)
def test_a_path_is_on_the_innermost_and_latest_mount(path: str, kind: str) -> None:
    """Else files in memory would pass for files on a disk, and fsync for cheap."""
    assert file_system_of(Path(path), MOUNTS) == kind


def test_the_processor_is_named_where_the_kernel_names_it() -> None:
    """Elsewhere the architecture must do."""
    assert cpu_model("processor\t: 0\nmodel name\t: A processor\n") == "A processor"
    assert cpu_model("processor\t: 0\nBogoMIPS\t: 50.00\n")
