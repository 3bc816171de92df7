"""Ways from a CT to labels: opened once a process, told apart by their weights."""

import hashlib
import pickle

import pytest
from small_nnunet import write_results

from flare_lib.inference import methods
from flare_lib.inference.methods import Settings, open_method, weights_sha256, weights_stamp
from flare_lib.network.weights import packaged_weights


@pytest.fixture(autouse=True)
def closed():
    open_method.cache_clear()
    yield
    open_method.cache_clear()


def test_settings_travel_and_equal_ones_open_the_nets_once(monkeypatch):
    opened = []
    monkeypatch.setattr(methods.stages, "load_stages", lambda folder, **_: opened.append(folder) or ("c", "f"))
    settings = Settings(device="cpu", margin_mm=7.0, tile_step=0.75)
    method = open_method(settings)
    assert open_method(pickle.loads(pickle.dumps(settings))) is method
    assert opened == [None]
    assert method.segment.keywords == {"coarse": "c", "fine": "f", "margin_mm": 7.0, "tile_steps": (1.0, 0.75)}
    assert (method.names[1], method.stage, method.notes) == ("liver", "fine", ())


def test_a_stamp_changes_with_the_files_of_the_weights_and_is_empty_where_one_is_missing(tmp_path):
    assert weights_stamp(Settings(tmp_path)) == ""
    for name in ("coarse.safetensors", "coarse.json", "fine.safetensors", "fine.json"):
        (tmp_path / name).write_text("{}")
    before = weights_stamp(Settings(tmp_path))
    assert weights_stamp(Settings(tmp_path)) == before != ""
    (tmp_path / "fine.safetensors").write_text("trained on")
    assert weights_stamp(Settings(tmp_path)) not in (before, "")


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
