"""MLflow's own pages in a real browser: what a person sees of two runs, one on each backend."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Page, expect, sync_playwright
from synthetic_runs import draw, end, new_run, say, train

from orchestrator import uploader
from orchestrator.mlflow_ui import Server, charts_url, compare_url, free_port, run_url
from orchestrator.system_metrics import SystemMetrics

pytestmark = [pytest.mark.slow, pytest.mark.browser]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000


def chromium() -> str:
    """Debian's chromium. Without it the test is skipped, but never in CI."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI") == "true":
        pytest.fail("CI=true, and there is no chromium: apt-get install chromium")
    pytest.skip("there is no chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def server(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a jax and a torch run. After the page: without a browser nothing is started."""
    folder = tmp_path_factory.mktemp("browser")
    uri = f"sqlite:///{folder}/mlflow.db"
    for backend, slower in (("jax", 1.0), ("torch", 1.2)):
        run = new_run(folder / f"burgers-{backend}", uri, backend=backend)
        say(run, "status", status="running")
        with SystemMetrics(run / "system.jsonl", every_s=3600):
            train(run, range(0, 2001, 50), slower)
        for step in (500, 1000, 2000):
            draw(run, step)
        end(run)
        assert uploader.sync(run).complete
    with Server(uri, free_port(5700), folder / "server.log") as started:
        yield started


@pytest.fixture(scope="module")
def runs(server: Server) -> dict[str, Any]:
    """The MLflow runs by backend."""
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("burgers")
    assert experiment is not None
    return {r.data.params["backend"]: r.info for r in client.search_runs([experiment.experiment_id])}


def look(page: Page, folder: Path, name: str) -> None:
    """Keep a picture, for a person to look at."""
    page.screenshot(path=folder / f"{name}.png")


def images(page: Page) -> list[int]:
    """Widths in pixels of the artifacts that the page shows as images and that really arrived."""
    script = "e => e.filter(i => i.src.includes('get-artifact') && i.complete).map(i => i.naturalWidth)"
    return [w for w in page.eval_on_selector_all("img", script) if w > 0]


def wait_for_images(page: Page, count: int) -> None:
    script = f"""() => [...document.querySelectorAll('img')]
        .filter(i => i.src.includes('get-artifact') && i.complete && i.naturalWidth > 0).length >= {count}"""
    page.wait_for_function(script)


def test_the_page_of_a_run_shows_parameters_metrics_and_summary(
    page: Page, server: Server, runs: dict[str, Any], tmp_path: Path
):
    info = runs["torch"]
    page.goto(run_url(server.url, info.experiment_id, info.run_id))
    expect(page.get_by_role("heading", name="burgers-torch")).to_be_visible()
    expect(page.get_by_text("finished at step 2,000").first).to_be_visible()
    text = page.locator("body")
    for word in (
        "network.width",
        "stages.warm.lr",
        "0.005",
        "validation/total",
        "error/l2",
        "ada",
        "orchestrator.status",
    ):
        expect(text).to_contain_text(word)
    page.get_by_text("Show more").first.click()
    wait_for_images(page, 1)
    look(page, tmp_path, "run")


def test_the_charts_of_a_run_show_curves_and_images_with_steps(
    page: Page, server: Server, runs: dict[str, Any], tmp_path: Path
):
    info = runs["jax"]
    page.goto(run_url(server.url, info.experiment_id, info.run_id, "model-metrics"))
    expect(page.get_by_text("figures/solution").first).to_be_visible()
    page.wait_for_selector(".js-plotly-plot .scatterlayer .trace")
    current = page.get_by_text("current/solution").first
    current.scroll_into_view_if_needed()
    wait_for_images(page, 1)
    assert max(images(page)) >= 900, "the small copy is large enough to read"
    look(page, tmp_path, "charts")
    for section in ("error", "figures", "current", "loss", "validation"):
        expect(page.get_by_text(re.compile(rf"^{section}\s*\(1\)|^{section}\s*\(2\)")).first).to_be_attached()


def test_the_system_metrics_of_a_run_have_their_own_page(page: Page, server: Server, runs: dict[str, Any]):
    info = runs["jax"]
    page.goto(run_url(server.url, info.experiment_id, info.run_id, "system-metrics"))
    expect(page.get_by_text("cpu_utilization_percentage").first).to_be_visible()


def test_the_comparison_of_both_backends_shows_where_they_differ(
    page: Page, server: Server, runs: dict[str, Any], tmp_path: Path
):
    page.goto(compare_url(server.url, runs["jax"].experiment_id, [runs["jax"].run_id, runs["torch"].run_id]))
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    text = page.locator("body")
    for word in (
        "burgers-jax",
        "burgers-torch",
        "backend",
        "jax",
        "torch",
        "network.width",
        "error/l2",
        "validation/total",
    ):
        expect(text).to_contain_text(word)
    page.wait_for_selector(".js-plotly-plot")
    look(page, tmp_path, "compare")


def test_the_saved_view_shows_curves_and_figures_of_both_runs_at_once(
    page: Page, server: Server, runs: dict[str, Any], tmp_path: Path
):
    page.goto(charts_url(server.url, runs["jax"].experiment_id))
    expect(page.get_by_text(re.compile(r"^Comparison\s*\(\d\)")).first).to_be_visible()
    for name in ("burgers-jax", "burgers-torch"):
        expect(page.get_by_text(name).first).to_be_visible()
    page.wait_for_selector(".js-plotly-plot .scatterlayer .trace >> nth=1")
    wait_for_images(page, 2)
    look(page, tmp_path, "view")
