"""The README's picture of the console: ``python -m scripts.screenshot``.

A cluster of its own, two regions under a steady load; one node is killed, and some seconds later
the page of another node is taken as a headless Chromium shows it.

Exit codes: 0 taken; 1 not: no Chromium, or the cluster did not come up; 130 interrupted.
"""

import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from docservice.client import Client
from docservice.client.errors import SteleError
from scripts.browser import chromium, find_chromium, open_page
from scripts.local_cluster import ClusterError, LocalCluster

PICTURE: Final = Path("docs/console.png")
_CONFIG: Final = "[storage]\nballast_bytes = 0\n"
_SIZE: Final = {"width": 1280, "height": 1000}
#: Long enough for the plots to show something; then with a node that is gone.
_WELL_S: Final = 75.0
_HURT_S: Final = 12.0
_KILLED: Final = "b2"
_CLIENTS: Final = 3
_PAUSE_S: Final = 0.004


def _work(cluster: LocalCluster, stop: threading.Event) -> None:
    """What a client does all day, until it is told to stop."""
    urls = [cluster.http_url(node) for node in cluster.nodes]
    made: list[str] = []
    # In a session each finds what it has made, wherever it looks.
    with Client(random.sample(urls, len(urls))) as client, client.session():
        while not stop.wait(random.expovariate(1 / _PAUSE_S)):
            try:
                turn = random.random()
                if turn < 0.3 or not made:
                    made.append(client.create("a document of an ordinary day " * 8).id)
                elif turn < 0.95:
                    client.get(random.choice(made))
                else:
                    client.delete(made.pop(random.randrange(len(made))))
            except SteleError as error:
                print(f"a client was refused: {error}", file=sys.stderr)


def _take(cluster: LocalCluster) -> list[str]:
    """Take the picture; what the page complained about."""
    complaints: list[str] = []
    with chromium() as browser, browser.new_context(viewport=_SIZE) as context:  # type: ignore[arg-type]
        page = open_page(context, f"{cluster.ops_url('a1')}/ui", complaints)
        time.sleep(_WELL_S)
        cluster.kill(_KILLED)
        page.wait_for_selector(f"[data-node={_KILLED}].dead")
        time.sleep(_HURT_S)
        page.screenshot(path=PICTURE)
    return complaints


def main() -> int:
    """See the module."""
    if find_chromium() is None:
        print("make screenshot: no Chromium here; apt-get install chromium", file=sys.stderr)
        return 1
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="stele-screenshot-") as directory:
        cluster = LocalCluster(Path(directory), regions=2, config=_CONFIG)
        clients = [
            threading.Thread(target=_work, args=(cluster, stop), daemon=True)
            for _ in range(_CLIENTS)
        ]
        try:
            cluster.up()
            for client in clients:
                client.start()
            complaints = _take(cluster)
            stop.set()
            for client in clients:
                client.join()
        except ClusterError as error:
            print(f"make screenshot: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            stop.set()
            cluster.close()
    for complaint in complaints:
        print(f"make screenshot: the page says {complaint}", file=sys.stderr)
    if not complaints:
        print(f"{PICTURE}: {PICTURE.stat().st_size // 1024} KiB")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
