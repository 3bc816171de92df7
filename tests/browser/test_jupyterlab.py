"""JupyterLab in a real browser: notebooks run from the menu, sliders move by keyboard, pictures change.

Needs Chromium (Debian: apt install chromium); skipped without it. Screenshots go to out/browser.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "out" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # without a graphics card
TOKEN = "course"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks, all cells drawn at once, no news asked for."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    settings = home / "settings" / "@jupyterlab"
    for name, values in (
        ("notebook-extension/tracker", {"windowingMode": "none"}),
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
    ):
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={home / 'notebooks'}",
    ]
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTER_RUNTIME_DIR": str(home / "run"),
    }
    log = (home / "log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=home)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=2):
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"JupyterLab must start within a minute, got: {(home / 'log').read_text()[-2000:]}")
        yield address
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@pytest.fixture(scope="module")
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *WEBGL])
        yield browser.new_page(viewport={"width": 1300, "height": 1000})
        browser.close()


def run_from_the_menu(page: Page, lab: str, name: str) -> None:
    """Open a notebook, choose Run > Run All Cells, wait until the last cell has its number."""
    page.goto(f"{lab}/lab/tree/{name}.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).first.wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Edit").first.click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells").click()
    page.get_by_role("menuitem", name="Run", exact=True).first.click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
    for _ in range(1200):
        texts = [text.strip() for text in prompts.all_inner_texts()]
        failed = page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]')
        assert failed.count() == 0, failed.first.inner_text()
        if texts and all(re.fullmatch(r"\[\d+\]:", text) for text in texts):
            return
        time.sleep(0.25)
    pytest.fail(f"every cell must have run within 300 s, got {texts}")


def press(page: Page, slider: int, key: str, times: int) -> None:
    """Give a slider of the page the focus and press a key some times."""
    handle = page.locator(".jp-Notebook .widget-slider .noUi-handle").nth(slider)
    handle.scroll_into_view_if_needed()
    handle.focus()
    for _ in range(times):
        page.keyboard.press(key)


@pytest.mark.parametrize(
    ("name", "slider"),
    [("00_start_here", 0), ("06_coarse_to_fine_inference", 2), ("07_slice_interpolation", 1)],
)
def test_a_notebook_runs_from_the_menu_and_its_picture_follows_a_slider(page, lab, name, slider):
    run_from_the_menu(page, lab, name)
    SHOTS.mkdir(parents=True, exist_ok=True)
    images = page.locator(".jp-Notebook img.widget-image")
    images.first.wait_for(timeout=30_000)
    # an Image widget shows a blob, whose address is a new one for every picture
    before = images.evaluate_all("images => images.map(image => image.src)")
    press(page, slider, "ArrowRight", 3)
    for _ in range(80):
        after = images.evaluate_all("images => images.map(image => image.src)")
        if after != before:
            break
        time.sleep(0.25)
    changed = [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert changed, "a picture must change when its slider moves"
    images.nth(changed[0]).scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    page.screenshot(path=SHOTS / f"{name}.png")
    shown, drawn = images.nth(changed[0]).evaluate("image => [image.width, image.naturalWidth]")
    assert 100 < shown <= drawn, "a picture must be shown at its own size, or smaller where the page is"


def test_the_organs_can_be_turned_in_webgl(page, lab):
    run_from_the_menu(page, lab, "10_your_own_ct")
    canvas = page.locator(".jp-Notebook canvas").first
    canvas.wait_for(timeout=30_000)
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(5_000)  # until the shaders are compiled in software
    before = canvas.screenshot(path=SHOTS / "10_volume_view.png")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 120, box["y"] + box["height"] / 2, steps=6)
    page.mouse.up()
    page.wait_for_timeout(2_000)
    assert canvas.screenshot(path=SHOTS / "10_volume_view_turned.png") != before
