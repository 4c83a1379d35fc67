"""deploy/prometheus by itself: its files are sound, and each alert fires and rests as it should."""

import re
import shutil
import subprocess

import pytest

from cluster.prometheus import prometheus_targets
from cluster.topology import plan_cluster
from tests.prometheus.deployed import DIRECTORY, alerts

if shutil.which("promtool") is None:
    pytest.skip("no Prometheus here: `apt-get install prometheus`", allow_module_level=True)


def promtool(*arguments: str) -> str:
    """What it says; it must find everything in order."""
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=DIRECTORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_configuration_and_the_rules_are_sound() -> None:
    """As Prometheus itself judges, without any target."""
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", "prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yml")


def test_each_alert_rests_while_all_is_well_and_fires_when_it_should() -> None:
    """Over series that are given second by second."""
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yml")
    tested = re.findall(
        r"^  - name: (\w+)$", (DIRECTORY / "rules_test.yml").read_text(), re.MULTILINE
    )
    assert tested == list(alerts())


def test_each_alert_says_what_is_wrong_and_what_to_do() -> None:
    """Whoever is woken by it need not look anything up."""
    for name, text in alerts().items():
        assert re.search(r"^ +summary: \"\S", text, re.MULTILINE), name
        assert re.search(r"^ +do: \"\S", text, re.MULTILINE), name
        assert re.search(r"severity: (critical|warning)", text), name


def test_every_node_is_a_target_under_its_own_names() -> None:
    """From the cluster file, like everything about who there is."""
    settings = plan_cluster(cluster_id="ab" * 16, nodes=3, regions=2, port_base=8000, config=None)
    targets = prometheus_targets(settings)
    assert [one["labels"]["node"] for one in targets] == ["a1", "a2", "a3", "b1", "b2", "b3"]
    assert targets[3] == {
        "targets": ["127.0.0.1:10201"],
        "labels": {"node": "b1", "node_region": "b", "zone": "z1"},
    }
