"""Results folders of nnU-Net: right, or one clear line."""

import json

import pytest
import torch
from small_nnunet import PLANS, checkpoint, plans, small_net, write_results, write_results_v1

from flare_lib.network.nnunet_export import nnunet_weights
from flare_lib.network.nnunet_folder import load_nnunet_folder


def test_every_numbered_fold_is_loaded_in_order(tmp_path):
    folder = write_results(tmp_path / "r", folds=("0", "1", "10", "2", "all"))
    model = load_nnunet_folder(folder)
    assert [fold.name for fold in model.folds] == ["0", "1", "2", "10"]
    assert model.plans.patch_size == (12, 16, 20)
    patch = torch.zeros(1, 1, 8, 8, 8) + torch.arange(8.0)
    with torch.no_grad():
        torch.testing.assert_close(model.folds[1].predict(patch), small_net(1).finest(patch))


def test_folds_can_be_chosen_and_all_is_the_last_resort(tmp_path):
    folder = write_results(tmp_path / "r", folds=("all",))
    assert [fold.name for fold in load_nnunet_folder(folder).folds] == ["all"]
    several = write_results(tmp_path / "s", folds=("0", "1", "all"))
    assert [fold.name for fold in load_nnunet_folder(several, ["all", "1"]).folds] == ["all", "1"]


def test_the_configuration_is_the_checkpoints(tmp_path):
    child = write_results(tmp_path / "r", configuration="3d_child")
    assert load_nnunet_folder(child, ["0"]).plans.configuration == "3d_child"
    flat = write_results(tmp_path / "s", configuration="2d")
    with pytest.raises(ValueError, match="must be 3-D, got 2d"):
        load_nnunet_folder(flat)


def test_a_fold_that_is_not_there_is_named_with_those_that_are(tmp_path):
    folder = write_results(tmp_path / "r")
    with pytest.raises(FileNotFoundError, match=r"a fold must be one of 0, 1 with its checkpoint_final.pth, got 4"):
        load_nnunet_folder(folder, ["4"])
    with pytest.raises(FileNotFoundError, match=r"must hold fold_0/checkpoint_final.pth or other folds, got none"):
        load_nnunet_folder(write_results(tmp_path / "s", folds=()))
    assert [fold.name for fold in load_nnunet_folder(folder, ["fold_1"]).folds] == ["1"]
    for fold in ("fold_0", "fold_1"):
        (folder / fold / "checkpoint_final.pth").rename(folder / fold / "checkpoint_best.pth")
    with pytest.raises(
        FileNotFoundError, match=r"got only checkpoints of unfinished training \(fold_0/checkpoint_best"
    ):
        load_nnunet_folder(folder, ["0"])


def test_folds_of_two_configurations_are_not_averaged(tmp_path):
    folder = write_results(tmp_path / "r")
    path = folder / "fold_1" / "checkpoint_final.pth"
    torch.save(checkpoint(nnunet_weights(small_net(1)), "3d_child"), path)
    with pytest.raises(ValueError, match=r"all folds must be of one configuration, 3d_fullres, got 3d_child: .*fold_1"):
        load_nnunet_folder(folder)


def test_what_is_no_results_folder_is_refused_with_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a folder, got .*nowhere"):
        load_nnunet_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"must hold plans\.json and dataset\.json \(v2\) or plans\.pkl \(v1\), got"):
        load_nnunet_folder(tmp_path)
    (tmp_path / "all" / "Dataset001").mkdir(parents=True)
    one = write_results(tmp_path / "all" / "Dataset001" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    with pytest.raises(ValueError, match=r"must be one of .*results, got all of them: nnUNetTrainer__nnUNetPlans__3d"):
        load_nnunet_folder(one.parent)
    with pytest.raises(ValueError, match=r"got all of them: Dataset001/nnUNetTrainer__nnUNetPlans__3d_fullres$"):
        load_nnunet_folder(tmp_path / "all")
    for k in range(2, 11):
        (tmp_path / "all" / f"Task{k:03}").mkdir()
        write_results_v1(tmp_path / "all" / f"Task{k:03}" / "nnUNetTrainerV2__nnUNetPlansv2.1", folds=())
    with pytest.raises(ValueError, match=r"all of them: Dataset001/.*, Task008/nnUNetTrainerV2\S+ and 2 more$"):
        load_nnunet_folder(tmp_path / "all")
    with pytest.raises(ValueError, match=r"must be the one that holds plans\.pkl \(--fold"):
        load_nnunet_folder(write_results_v1(tmp_path / "v1") / "fold_0")
    with pytest.raises(
        ValueError, match=r"must be the one that holds plans\.json \(--fold chooses a fold\), got .*fold_0"
    ):
        load_nnunet_folder(one / "fold_0")


def test_names_and_notepads_mark_do_no_harm(tmp_path):
    folder = write_results(tmp_path / "mit Leerzeichen, ünïcode")
    (folder / "plans.json").write_text(json.dumps(PLANS), encoding="utf-8-sig")
    assert load_nnunet_folder(folder).plans == load_nnunet_folder(write_results(tmp_path / "r")).plans


class Stranger:
    ran = False

    def __reduce__(self):
        return setattr, (Stranger, "ran", True)


def test_nothing_in_a_checkpoint_runs(tmp_path):
    folder = write_results(tmp_path / "r")
    torch.save({"network_weights": {}, "logging": Stranger()}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ValueError, match="got Python objects, which could run code"):
        load_nnunet_folder(folder)
    assert not Stranger.ran


def test_damaged_files_are_refused_by_name(tmp_path):
    folder = write_results(tmp_path / "r")
    (folder / "plans.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"plans\.json must hold a JSON object, got a list"):
        load_nnunet_folder(folder)
    (folder / "plans.json").write_text("{")
    with pytest.raises(ValueError, match=r"plans\.json must be JSON, got"):
        load_nnunet_folder(folder)
    (folder / "plans.json").write_text(json.dumps(PLANS))
    torch.save({"network_weights": {}}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ValueError, match="must be a checkpoint of nnU-Net v2, which names its configuration, got none"):
        load_nnunet_folder(folder)


def test_plans_that_are_not_those_of_the_weights_are_refused(tmp_path):
    changed = plans()
    changed["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["n_conv_per_stage"] = [1, 2, 2]
    with pytest.raises(ValueError, match=r"checkpoint_final\.pth must hold exactly the net's tensors, got unknown"):
        load_nnunet_folder(write_results(tmp_path / "r", plans=changed))
