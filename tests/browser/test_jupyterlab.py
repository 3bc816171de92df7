"""JupyterLab in a real browser: notebooks run from the menu, sliders move by keyboard, pictures change.

Needs Chromium (Debian: apt install chromium); skipped without it. Screenshots go to out/browser. The sample is a small
phantom, and one notebook has smaller parameters than its own, for speed.
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
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from papermill.iorw import load_notebook_node, write_ipynb
from papermill.parameterize import parameterize_notebook
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from small_sample import write_small_sample

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "out" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
NOTEBOOKS = {
    "00_start_here": {},
    "06_coarse_to_fine_inference": {},
    "07_slice_interpolation": {"scale": 2, "whole_body_zyx": [60, 50, 40]},
    "10_your_own_ct": {},
}
AT_START = f"""
import sys
sys.path.append({str(ROOT / "tests")!r})
from pytest import MonkeyPatch
from small_sample import use_small_sample
use_small_sample(MonkeyPatch())
"""
# without a graphics card; a page that is drawn through it costs far more than one without
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
FLAT = ["--disable-gpu"]
TOKEN = "course"
PATIENCE_S = 900  # for one thing to happen: a busy machine is slow, and only what stands still has failed

pytestmark = [
    pytest.mark.slow("a browser and the kernels of four notebooks"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
]


def answers(address: str) -> bool:
    """Tell whether JupyterLab is there."""
    try:
        with urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=PATIENCE_S):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with copies of the notebooks, the phantom that stands in for the sample, and what kernels run first."""
    home = tmp_path_factory.mktemp("lab")
    (home / "notebooks").mkdir()
    for name, parameters in NOTEBOOKS.items():
        notebook = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
        write_ipynb(parameterize_notebook(notebook, parameters), str(home / "notebooks" / f"{name}.ipynb"))
    (home / "cache").mkdir()
    write_small_sample(home / "cache")
    startup = home / "ipython" / "profile_default" / "startup" / "sample.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(AT_START, encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def lab(home):
    """The address of a JupyterLab on the notebooks, all cells drawn at once, no news asked for."""
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
    command = [sys.executable, str(Path(__file__).with_name("lab.py"))]
    command += [
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={home / 'notebooks'}",
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")])),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTER_RUNTIME_DIR": str(home / "run"),
        "IPYTHONDIR": str(home / "ipython"),
        "FLARE_LIB_CACHE": str(home / "cache"),
    }
    log = (home / "log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=home)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: server.poll() is not None or answers(address), "JupyterLab must answer")
        if server.poll() is not None:
            pytest.fail(f"JupyterLab must start, got: {(home / 'log').read_text()[-2000:]}")
        yield address
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@pytest.fixture(scope="module")
def windows():
    """Return the window of a browser that draws as these arguments say; its pages share what it has loaded."""
    with sync_playwright() as playwright, ExitStack() as at_the_end:

        @cache
        def window(*drawing):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *drawing])
            at_the_end.callback(browser.close)
            return browser.new_context(viewport={"width": 1300, "height": 1000}, reduced_motion="reduce")

        yield window


@pytest.fixture
def page(windows, request):
    page = windows(*getattr(request, "param", FLAT)).new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    yield page
    page.close()


def run_from_the_menu(page: Page, lab: str, name: str) -> None:
    """Open a notebook, choose Run > Run All Cells, wait until the last cell has its number."""
    page.goto(f"{lab}/lab/tree/{name}.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).first.wait_for()
    page.get_by_role("menuitem", name="Edit").first.click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells").click()
    page.get_by_role("menuitem", name="Run", exact=True).first.click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
    failed = page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)")
    finished, since = -1, time.monotonic()
    while True:
        texts = [text.strip() for text in prompts.all_inner_texts()]
        assert failed.count() == 0, failed.first.inner_text()
        now_finished = sum(re.fullmatch(r"\[\d+\]:", text) is not None for text in texts)
        if texts and now_finished == len(texts):
            return
        if now_finished > finished:
            finished, since = now_finished, time.monotonic()
        if time.monotonic() - since > PATIENCE_S:
            pytest.fail(f"a cell must finish within {PATIENCE_S} s of the one before, got {texts}")
        time.sleep(1)


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Ask again and again until something has happened."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > PATIENCE_S:
            pytest.fail(f"{what}, got none within {PATIENCE_S} s")
        time.sleep(0.25)


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
    images.first.wait_for()
    # an Image widget shows a blob, whose address is a new one for every picture
    before = images.evaluate_all("images => images.map(image => image.src)")
    press(page, slider, "ArrowRight", 3)

    def changed() -> list[int]:
        after = images.evaluate_all("images => images.map(image => image.src)")
        return [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]

    wait_until(changed, "a picture must change when its slider moves")
    picture = images.nth(changed()[0])
    picture.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    page.screenshot(path=SHOTS / f"{name}.png")
    shown, drawn = picture.evaluate("image => [image.width, image.naturalWidth]")
    assert 100 < shown <= drawn, "a picture must be shown at its own size, or smaller where the page is"


@pytest.mark.parametrize("page", [WEBGL], ids=["webgl"], indirect=True)
def test_the_organs_can_be_turned_in_webgl(page, lab):
    run_from_the_menu(page, lab, "10_your_own_ct")
    canvas = page.locator(".jp-Notebook canvas").first
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()

    def drawn() -> bool:
        """Tell whether the canvas shows something that has come to rest: shaders are compiled in software first."""
        earlier = canvas.screenshot()
        page.wait_for_timeout(1_000)
        shown = canvas.screenshot(path=SHOTS / "10_volume_view.png")
        n_colors = len(Image.open(BytesIO(shown)).convert("RGB").getcolors(2**24))
        return shown == earlier and n_colors > 1000  # letters have more than a hundred, for their edges are smooth

    wait_until(drawn, "the organs must be drawn")
    before = canvas.screenshot()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 120, box["y"] + box["height"] / 2)  # at once: each step is drawn
    page.mouse.up()
    wait_until(lambda: canvas.screenshot(path=SHOTS / "10_volume_view_turned.png") != before, "the organs must turn")
