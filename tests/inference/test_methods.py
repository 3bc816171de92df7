"""Ways from a CT to labels: opened once a process, told apart by their weights."""

import hashlib
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_nnunet import write_results

from flare_lib.ct import resample
from flare_lib.ct.preprocess import FINE
from flare_lib.ct.volume import Volume
from flare_lib.inference import components, methods, pseudo_labels, slice_kernels
from flare_lib.inference.coarse_to_fine import segment
from flare_lib.inference.methods import (
    Ensemble,
    Settings,
    clean_up_rules,
    compiling,
    open_method,
    weights_sha256,
    weights_stamp,
)
from flare_lib.network.nnunet_plans import Plans
from flare_lib.network.weights import load_trained, packaged_weights


@pytest.fixture(autouse=True)
def closed():
    open_method.cache_clear()
    yield
    open_method.cache_clear()


def test_settings_travel_and_equal_ones_open_the_nets_once(monkeypatch):
    opened = []
    monkeypatch.setattr(methods.stages, "load_stages", lambda folder, **_: opened.append(folder) or ("c", "f"))
    settings = Settings(device="cpu", margin_mm=7.0, tile_step=0.75, fit_tiles=1.5)
    method = open_method(settings)
    assert open_method(pickle.loads(pickle.dumps(settings))) is method
    assert opened == [None]
    tiles = {"tile_steps": (1.0, 0.75), "fit_tiles": 1.5}
    assert method.segment.keywords == {"coarse": "c", "fine": "f", "margin_mm": 7.0, **tiles}
    assert (method.names[1], method.stage, method.notes) == ("liver", "fine", ())


def test_the_nets_are_shown_a_small_body_larger():
    shown = open_method(Settings(device="cpu", precision="float32", scale=2.0)).segment.keywords
    spacings = [shown[name].preprocessing.spacing_zyx_mm for name in ("coarse", "fine")]
    assert spacings == [(2.5, 2.5, 2.5), (1.5, 1.5, 1.5)]


def test_the_fine_net_looks_as_its_card_says_or_once_if_that_is_to_be_fast():
    numbers = {"device": "cpu", "precision": "float32"}
    card = load_trained(packaged_weights("fine")).card
    for settings, scales in (
        (Settings(**numbers), card["scales"]),
        (Settings(**numbers, fast=True), [1.0]),
        (Settings(**numbers, fast=True, scale=1.5), [1.5]),
    ):
        fine = open_method(settings).segment.keywords["fine"]
        assert [view.scale for view in fine.views] == scales


def test_a_stamp_changes_with_the_files_of_the_weights_and_is_empty_where_one_is_missing(tmp_path):
    assert weights_stamp(Settings(tmp_path)) == ""
    for name in ("coarse.safetensors", "coarse.json", "fine.safetensors", "fine.json"):
        (tmp_path / name).write_text("{}")
    before = weights_stamp(Settings(tmp_path))
    assert weights_stamp(Settings(tmp_path)) == before != ""
    (tmp_path / "fine.safetensors").write_text("trained on")
    assert weights_stamp(Settings(tmp_path)) not in (before, "")


@pytest.mark.parametrize("organs", [False, True])
def test_an_nnunet_is_opened_with_its_folds_alone_or_behind_the_coarse_net(tmp_path, monkeypatch, organs):
    asked = []
    monkeypatch.setattr(methods.stages, "load_stages", lambda folder, **how: asked.append((folder, how)) or ("c", "f"))
    monkeypatch.setattr(Plans, "has_flares_organs", organs)
    folder = write_results(tmp_path / "r")
    tiles = {"tile_step": 0.75, "fit_tiles": 1.5}
    settings = Settings(tmp_path, folder, ("1",), margin_mm=7.0, device="cpu", precision="float32", **tiles)
    alone = open_method(settings)
    assert set(alone.segment.keywords) == {"stage", *tiles}
    assert (alone.segment.keywords.items() >= tiles.items(), asked) == (True, [])
    assert (len(alone.segment.keywords["stage"].folds), alone.stage, alone.notes) == (1, "nnU-Net", ())
    assert alone.names == alone.segment.keywords["stage"].plans.names
    behind = open_method(replace(settings, roi=True))
    assert asked == [(tmp_path, {"device": torch.device("cpu"), "precision": "float32", "engine": "torch"})]
    assert (behind.segment.keywords["coarse"], behind.segment.keywords["margin_mm"]) == ("c", 7.0)
    assert behind.segment.keywords["stage"].precision.name == "float32"
    note = "--roi looks only near FLARE's 13 organs; anything far from them is missed"
    assert behind.notes == (() if organs else (note,))


def test_an_ensemble_is_every_net_at_every_scale(tmp_path):
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"mine{suffix}").write_bytes(packaged_weights("fine").with_suffix(suffix).read_bytes())
    ensemble = Ensemble((packaged_weights("fine"), tmp_path / "mine.safetensors"), (1.0, 1.25), sure=0.6)
    settings = Settings(device="cpu", precision="float32", tile_step=0.75, ensemble=ensemble)
    method = open_method(pickle.loads(pickle.dumps(settings)))
    views = method.segment.keywords["stages"]
    assert [view.preprocessing.spacing_zyx_mm[1] for view in views] == [3.0, 2.4, 3.0, 2.4]
    assert views[0].net is views[1].net is not views[2].net
    assert (method.segment.keywords["sure"], method.segment.keywords["tile_step"]) == (0.6, 0.75)
    assert set(weights_sha256(settings)) == {"net 1", "net 1, card", "net 2", "net 2, card"}
    assert weights_stamp(settings) != ""


def test_weights_are_told_apart_by_their_content(tmp_path):
    packaged = packaged_weights("fine").with_suffix(".safetensors").read_bytes()
    assert weights_sha256(Settings())["fine"] == hashlib.sha256(packaged).hexdigest()
    for name in ("coarse", "fine"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
        (tmp_path / f"{name}.json").write_text("{}")
    own = weights_sha256(Settings(tmp_path))
    content = {"coarse": "coarse", "coarse, card": "{}", "fine": "fine", "fine, card": "{}"}
    assert own == {name: hashlib.sha256(text.encode()).hexdigest() for name, text in content.items()}
    folder = write_results(tmp_path / "r")
    assert set(weights_sha256(Settings(nnunet=folder))) == {
        "dataset.json",
        "plans.json",
        "fold_0/checkpoint_final.pth",
        "fold_1/checkpoint_final.pth",
    }
    assert set(weights_sha256(Settings(tmp_path, folder, roi=True))) > {"coarse", "fine", "plans.json"}
    with pytest.raises(FileNotFoundError):
        weights_sha256(Settings(tmp_path / "none"))


def test_an_nnunets_labels_of_a_whole_ct_follow_no_rules_of_ours(tmp_path):
    rules = clean_up_rules(Settings())
    assert (rules["max_distance_mm"], rules["min_share"]) == (170.0, 0.2)
    assert rules["organs_in_pieces"] == ["pancreas", "inferior vena cava", "esophagus", "stomach", "duodenum"]
    assert rules["least_ml"] == 5.0
    assert rules["never_specks"] == ["liver", "right kidney", "spleen", "stomach", "left kidney"]
    behind = clean_up_rules(Settings(nnunet=tmp_path, roi=True))
    assert rules.keys() - behind.keys() == {"least_ml", "never_specks"}
    assert behind.items() <= rules.items()
    assert clean_up_rules(Settings(nnunet=tmp_path)) == {}
    of_ensemble = clean_up_rules(Settings(ensemble=Ensemble((tmp_path,))))
    assert of_ensemble == behind | pseudo_labels.RULES


def bright_is_liver(patch):
    scores = torch.zeros(1, 14, *patch.shape[2:])
    scores[:, 1] = patch[0]
    return scores


PAINTING = (
    *(slice_kernels.find_winners, slice_kernels.paint_uniform, slice_kernels.paint_cells),
    slice_kernels.paint_rows,
)


def loops_ready():
    """Return how many kinds of each loop are compiled in this process."""
    loops = (resample._interpolate, *PAINTING, components._measure, components._erase)
    return [len(loop.signatures) for loop in loops]


def compiled_before_and_after_a_case():
    """Segment a block in air through stages that need no net, after compiling ahead; return also a label within it."""
    with compiling():
        pass
    before = loops_ready()
    hu = np.full((20, 30, 24), -1000, np.int16)
    hu[3:15, 5:22, 4:19], hu[6:12, 9:18, 8:15] = 40, 250
    net = SimpleNamespace(
        patch_size=(16, 24, 20),
        predict_patch=bright_is_liver,
        prepare=lambda ct: torch.from_numpy(FINE.apply(ct).array_zyx)[None],
    )
    labels = segment(Volume.from_array(hu, (5.0, 3.0, 4.0)), net, net).label_map_zyx
    return before, loops_ready(), int(labels[9, 13, 11])


@pytest.mark.slow("a process of its own, with the loops of a whole case")
def test_what_is_compiled_ahead_is_what_a_case_needs(fresh_processes):
    with fresh_processes(1) as pool:
        assert pool.submit(compiled_before_and_after_a_case).result() == ([1] * 7, [1] * 7, 1)
