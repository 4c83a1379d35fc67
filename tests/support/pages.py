"""Reading the worked examples of the format pages."""

import re
from pathlib import Path


def example_bytes(page: Path, heading: str) -> list[bytes]:
    """The bytes of each indented block under a heading: hexadecimal up to a gap of three spaces."""
    _, _, rest = page.read_text().partition(f"{heading}\n")
    section = re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"(?:^    .+\n)+", section, flags=re.MULTILINE)
    return [
        bytes.fromhex("".join(re.split(r" {3,}", line.strip())[0] for line in block.splitlines()))
        for block in blocks
    ]
