"""The page of a cohort: what is odd comes first, in words, with a picture."""

import re

import numpy as np
import pytest
from matplotlib.image import imread

from flare_lib.ct.labels import ORGANS
from flare_lib.ct.volume import Volume
from flare_lib.display.cohort_page import oddities, save_thumbnail, write_cohort_page


def entry(name, liver=1500.0, seconds=4.0, notes=(), cut_off=()):
    volumes = {organ.name: 0.0 for organ in ORGANS} | {"liver": liver}
    done = {"name": name, "state": "done", "total_s": seconds, "peak_mib": 900.0}
    return done | {"volumes_ml": volumes, "notes": list(notes), "cut_off": list(cut_off)}


@pytest.fixture
def entries():
    usual = [entry(f"c{k}", 1500.0 + 40 * k, 4.0 + 0.1 * k) for k in range(9)]
    return [*usual, entry("half", 700.0), entry("slow", seconds=60.0, notes=["no spleen <was> found"])]


def test_far_off_volumes_times_notes_and_errors_are_odd(entries):
    found = {e["name"]: oddities(e, entries) for e in entries}
    assert found["c0"] == []
    assert found["half"] == ["liver 700 mL, here usually 1620"]
    assert found["slow"] == ["no spleen <was> found", "took 60.0 s, here usually 4.4"]
    assert oddities({"name": "bad", "state": "failed", "error": "broken"}, entries) == ["broken"]
    assert oddities(entry("cut", 300.0, cut_off=["liver"]), entries) == []
    assert oddities(entries[-2], entries[-4:]) == []  # of four cases none is usual


def test_the_oddest_come_first_and_text_is_no_markup(entries, tmp_path):
    bad = {"name": "bad & worse", "state": "failed", "error": "<b>"}
    write_cohort_page(tmp_path / "cohort.html", [*entries, bad], title="a < b")
    page = (tmp_path / "cohort.html").read_text()
    assert re.findall(r'<tr class="\w+"><td>.*?<br>([^<]+)</td>', page)[:3] == ["bad &amp; worse", "slow", "half"]
    assert "<title>a &lt; b</title>" in page
    assert "&lt;was&gt;" in page
    assert "12 cases, 1 put aside" in page
    assert 'src="thumbnails/half.png"' in page
    assert "thumbnails/bad" not in page
    write_cohort_page(tmp_path / "cohort.html", [])
    assert "0 cases" in (tmp_path / "cohort.html").read_text()


def test_any_name_that_a_file_may_have_leads_to_its_picture(tmp_path):
    names = ["50 % dose #2?", "M\udcfcller"]  # the second: a name in Latin-1, as Python reads it on Linux
    write_cohort_page(tmp_path / "cohort.html", [entry(name) for name in names])
    page = (tmp_path / "cohort.html").read_text(encoding="utf-8")
    assert re.findall(r'src="thumbnails/(.*?)\.png"', page) == ["50%20%25%20dose%20%232%3F", "M%FCller"]
    assert "50 % dose #2?</td>" in page
    assert "M?ller</td>" in page


def test_a_picture_shows_both_planes_with_the_organs(tmp_path):
    ct = Volume.from_array(np.full((20, 24, 28), 40, np.int16), (5.0, 5.0, 5.0))
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[8:13, 8:17, 8:17] = 1
    save_thumbnail(tmp_path, "a", ct, labels)
    picture = imread(tmp_path / "thumbnails" / "a.png")
    assert picture.shape[:2] == (48, 56 + 4 + 56 + 4)  # 2.5 mm a pixel
    coloured = np.ptp(picture[..., :3], axis=2) > 0.05
    assert coloured[:, :56].any()
    assert coloured[:, 60:].any()
    save_thumbnail(tmp_path, "b", ct, np.zeros_like(labels))
    assert (tmp_path / "thumbnails" / "b.png").exists()
