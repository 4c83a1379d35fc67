"""The console in a real browser, over two regions of real processes: what is seen and done."""

import re
import time
from collections.abc import Iterator

import pytest

from scripts.browser import chromium, find_chromium, open_page
from scripts.local_cluster import LocalCluster, call, wait_until

if find_chromium() is None:
    pytest.skip("no Chromium here: `apt-get install chromium` brings it", allow_module_level=True)

from playwright.sync_api import Browser, BrowserContext, Page, expect

pytestmark = pytest.mark.cluster

#: "Visible within 5 s"; a look each second, and drawing it, included.
SEEN_WITHIN_MS = 5_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests; each has a profile of its own."""
    with chromium() as started:
        yield started


@pytest.fixture
def complaints() -> list[str]:
    """What pages have said to their consoles: nothing, if all is well."""
    return []


@pytest.fixture
def page(browser: Browser, two: LocalCluster, complaints: list[str]) -> Iterator[Page]:
    """The console of a1 on a desk."""
    with browser.new_context() as context:
        yield open_page(context, f"{two.ops_url('a1')}/ui", complaints)


def tile(page: Page, node: str) -> str:
    """Where a node is shown."""
    return f"[data-node={node}]"


def create(page: Page, content: str) -> str:
    """As an operator would. Returns the id."""
    page.get_by_label("Content").fill(content)
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#answer")).to_have_text("Created.")
    return page.get_by_label("Id").input_value()


def test_a_document_is_made_read_looked_for_and_deleted(
    page: Page, two: LocalCluster, complaints: list[str]
) -> None:
    """All of it on one page; what it holds is shown as text, whatever it is."""
    document_id = create(page, "<b>written</b> & read")

    page.get_by_role("button", name="Read").click()
    expect(page.locator("#body")).to_contain_text('"content": "<b>written</b> & read"')

    page.get_by_role("button", name="Inspect").click()
    inspected = page.locator("#inspected")
    expect(inspected).to_contain_text("Every copy that was found says: created")
    expect(inspected.locator("tbody tr").nth(3)).to_be_in_viewport()
    # In both regions, once it has come to the other one.
    two.wait_level()
    page.get_by_role("button", name="Inspect").click()
    expect(inspected.locator("tbody tr").filter(has_text="created")).to_have_count(6)

    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#answer")).to_contain_text("Deleted")
    url = f"{two.http_url('a2')}/documents/{document_id}"
    wait_until(lambda: call("GET", url).status == 410)  # one node's word was enough to delete it
    page.get_by_role("button", name="Inspect").click()
    expect(inspected).to_contain_text("may leave the disks")
    expect(inspected).to_contain_text("document.deleted")

    page.get_by_role("button", name="Read").click()
    expect(page.locator("#answer.failed")).to_contain_text("410")
    assert [one for one in complaints if "410" not in one] == []


def test_the_rates_move_while_clients_work(page: Page, two: LocalCluster) -> None:
    """Also those of another region's nodes."""
    deadline_s = time.monotonic() + 10
    reads = page.locator("#throughput .reads b")
    while time.monotonic() < deadline_s and not re.search("[1-9]", reads.inner_text()):
        for _ in range(20):
            call("GET", f"{two.http_url('b2')}/documents/01a20874-f1e0-76be-9da5-952b92c61729")
    expect(reads).to_have_text(re.compile("[1-9]"))
    expect(page.locator("#throughput path.reads")).to_have_attribute("d", re.compile("L"))


def test_a_node_that_is_killed_is_shown_dead_and_all_else_goes_on(
    page: Page, two: LocalCluster, complaints: list[str]
) -> None:
    """With what to do about it; and it is well again when it is back."""
    expect(page.locator("#verdict")).to_have_text("All 6 nodes are well")
    two.kill("b2")

    expect(page.locator(f"{tile(page, 'b2')}.dead")).to_be_visible(timeout=SEEN_WITHIN_MS)
    expect(page.locator("#findings")).to_contain_text("b2 is down")
    expect(page.locator("#findings")).to_contain_text("stele start b2")
    expect(page.locator("#verdict")).to_contain_text("b2 is down")
    create(page, "meanwhile")

    two.start("b2")
    expect(page.locator(f"{tile(page, 'b2')}.alive")).to_be_visible(timeout=10_000)
    expect(page.locator("#verdict")).to_have_text("All 6 nodes are well", timeout=10_000)
    assert complaints == []


def test_a_page_whose_own_node_is_gone_says_so_and_comes_back(
    browser: Browser, two: LocalCluster
) -> None:
    """What is still on the screen is old then."""
    with browser.new_context() as context:
        page = open_page(context, f"{two.ops_url('b3')}/ui", [])
        expect(page.locator("#feed")).to_contain_text(re.compile(r"as of \d"))
        two.kill("b3")
        expect(page.locator("#feed")).to_contain_text("connection lost", timeout=SEEN_WITHIN_MS)
        two.start("b3")
        expect(page.locator("#feed")).to_contain_text(re.compile(r"as of \d"), timeout=15_000)


def test_it_is_used_with_the_keyboard_alone(page: Page) -> None:
    """The focus is seen, and stays where it is while the page changes under it."""
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the cluster")).to_be_focused()
    page.get_by_label("Content").focus()
    page.keyboard.type("typed")
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text("Created.")
    link = page.locator(f"{tile(page, 'a2')} a")
    link.focus()
    for _ in range(2):
        before = page.locator("#feed").inner_text()
        expect(page.locator("#feed")).not_to_have_text(before)
    expect(page.locator(f"{tile(page, 'a2')} a")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_by_day_and_night(
    browser: Browser, two: LocalCluster, scheme: str
) -> None:
    """Nothing is wider than the screen; text stands out from what is behind it (WCAG AA)."""
    size = {"width": 360, "height": 740}
    context = browser.new_context(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
    with context:
        page = open_page(context, f"{two.ops_url('a1')}/ui", [])
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        dark = page.evaluate(_LIGHTNESS, "body") < 0.5
        assert dark == (scheme == "dark")
        for selector in ("body", ".aside", ".node .state", "dt", "button.danger", "#create button"):
            assert page.evaluate(_CONTRAST, selector) >= 4.5, selector
        page.get_by_role("button", name="Light or dark").click()
        assert (page.evaluate(_LIGHTNESS, "body") < 0.5) != dark


#: Of colours as a canvas paints them, for a style may spell them in many ways.
_PAINTED = """
  const painted = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    const linear = [r, g, b].map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return { opaque: a === 255, l: 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] };
  };
  let behind = document.querySelector(selector);
  const front = painted(getComputedStyle(behind).color).l;
  while (!painted(getComputedStyle(behind).backgroundColor).opaque) behind = behind.parentElement;
  const back = painted(getComputedStyle(behind).backgroundColor).l;
"""
_LIGHTNESS = f"(selector) => {{ {_PAINTED} return back; }}"
#: Source: WCAG 2.2, contrast ratio.
_CONTRAST = f"""(selector) => {{ {_PAINTED}
  return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
}}"""


def test_nothing_comes_from_elsewhere(browser: Browser, two: LocalCluster) -> None:
    """No font, script or picture: an operator's machine may have no way out."""
    with browser.new_context() as context:
        asked: list[str] = []
        _listen(context, asked)
        page = open_page(context, f"{two.ops_url('a1')}/ui", [])
        expect(page.locator("#feed")).to_contain_text(re.compile(r"as of \d"))
        assert asked
        assert [url for url in asked if not url.startswith(f"{two.ops_url('a1')}/ui")] == []


def _listen(context: BrowserContext, asked: list[str]) -> None:
    context.on("request", lambda request: asked.append(request.url))
