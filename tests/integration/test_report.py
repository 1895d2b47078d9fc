"""The comparison's page in a real browser, without a network: everything is in it, and it fits the window."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from test_browser import FLAGS, chromium

from orchestrator import compare

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from made_runs import make

pytestmark = [pytest.mark.slow, pytest.mark.browser]
NASTY = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = browser.new_context(viewport={"width": 1360, "height": 900}, offline=True)
        yield context.new_page()
        browser.close()


def test_the_report_opens_offline_shows_everything_and_runs_nothing(page: Page, tmp_path: Path):
    for seed in range(3):
        make(tmp_path / "runs", f"heat-{seed}", metrics={"error/l2": 0.1 + seed / 50, "loss": 0.2}, seed=seed)
    make(tmp_path / "runs", "wide-0", metrics={"error/l2": 0.05, "loss": 0.1}, **{"network.width": 40})
    make(tmp_path / "runs", "odd-0", status="failed", reason=NASTY, name=NASTY, **{"network.kind": NASTY})
    file = tmp_path / "report.html"
    file.write_text(compare(tmp_path / "runs").html)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(file.as_uri())
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert errors == [], "the page's own policy was not violated"
    assert "hacked" not in page.title()[:6]
    expect(page.get_by_role("heading", name="Losses and errors")).to_be_visible()
    expect(page.get_by_role("heading", name="Weights of the loss terms")).to_be_visible()
    expect(page.get_by_role("heading", name="Where they come from")).to_be_visible()
    expect(page.locator("td b").first).to_have_text("0.05000 *")
    expect(page.get_by_text("heat (n = 3)").first).to_be_visible()
    expect(page.get_by_text("0.120 ± 0.020")).to_be_visible()
    widths = page.eval_on_selector_all("img", "e => e.map(i => i.complete ? i.naturalWidth : 0)")
    assert len(widths) == 2 + 5
    assert all(w > 0 for w in widths)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "no sideways scrolling"
    page.set_viewport_size({"width": 420, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nor on a telephone"
    page.screenshot(path=tmp_path / "report.png", full_page=True)
