"""Results folders of nnU-Net v1: the net itself, or one clear line."""

import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from small_nnunet import NAMES, information_v1, small_net, write_results_v1
from spoilt_plans import with_anything_in_every_place

from flare_lib.ct.volume import FileGrid
from flare_lib.network import nnunet_v1
from flare_lib.network.nnunet_folder import load_nnunet_folder, model_files
from flare_lib.network.nnunet_plans import Normalisation

CHECKPOINT = "model_final_checkpoint.model"


def changed(*where, **values):
    """Return what a trainer saves, with values changed in its plans, or in what `where` leads to."""
    information = copy.deepcopy(information_v1())
    part = information["plans"]
    for key in where:
        part = part[key]
    part.update(values)
    return information


def test_a_folder_is_its_nets_and_plans(tmp_path):
    model = load_nnunet_folder(write_results_v1(tmp_path / "nnUNetTrainerV2__nnUNetPlansv2.1"))
    assert [fold.name for fold in model.folds] == ["0", "1"]
    patch = torch.linspace(-2, 2, 8 * 8 * 8).reshape(1, 1, 8, 8, 8)
    with torch.no_grad():
        for seed, fold in enumerate(model.folds):
            torch.testing.assert_close(fold.predict(patch), small_net(seed, version=1).finest(patch))
    plans = model.plans
    assert (plans.version, plans.configuration, plans.patch_size) == (1, "3d_fullres", (12, 16, 20))
    assert (plans.spacing_mm, plans.transpose_forward, plans.reorients) == ((2.5, 3.1, 2.2), (1, 0, 2), False)
    assert plans.normalisation == Normalisation("CTNormalization", (-600.0, 420.0), 40.0, 130.0)
    assert (plans.ct_order, plans.n_classes, plans.names[4]) == (3, 5, "label 4")


def test_labels_have_names_where_the_data_sets_own_file_lies_beside(tmp_path):
    folder = write_results_v1(tmp_path / "r")
    named = {"0": "background", **{str(label): name for label, name in NAMES.items()}}
    (folder / "dataset.json").write_text(json.dumps({"labels": named}))
    assert load_nnunet_folder(folder).plans.names == NAMES
    del named["3"]
    (folder / "dataset.json").write_text(json.dumps({"labels": named}))
    with pytest.raises(ValueError, match=r"dataset\.json must name the labels 0 to 4, got 0, 1, 2, 4$"):
        load_nnunet_folder(folder)
    (folder / "dataset.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(ValueError, match=r"dataset\.json must name its labels, got None"):
        load_nnunet_folder(folder)


def test_folds_can_be_chosen_and_all_is_the_last_resort(tmp_path):
    folder = write_results_v1(tmp_path / "r", folds=("fold_0", "all", "fold_3"))
    assert [fold.name for fold in load_nnunet_folder(folder).folds] == ["0", "3"]
    assert [fold.name for fold in load_nnunet_folder(folder, ["all", "3"]).folds] == ["all", "3"]
    with pytest.raises(FileNotFoundError, match=rf"must be one of 0, 3 with its {CHECKPOINT}, got 1: there is no "):
        load_nnunet_folder(folder, ["1"])
    alone = write_results_v1(tmp_path / "s", folds=("all",))
    assert [fold.name for fold in load_nnunet_folder(alone).folds] == ["all"]
    (alone / "all" / CHECKPOINT).rename(alone / "all" / "model_best.model")
    with pytest.raises(FileNotFoundError, match=r"got only checkpoints of unfinished training \(all/model_best"):
        load_nnunet_folder(alone)


def test_the_pickles_are_files_of_the_model(tmp_path):
    folder = write_results_v1(tmp_path / "r", folds=("all",))
    assert [path.relative_to(folder).as_posix() for path in model_files(folder)] == [
        f"all/{CHECKPOINT}",
        f"all/{CHECKPOINT}.pkl",
        "plans.pkl",
    ]


def test_the_low_resolution_of_two_stages_and_old_plans_are_read(tmp_path):
    information = changed(preprocessor_name="GenericPreprocessor_linearResampling", transpose_forward=None)
    stages = information["plans"]["plans_per_stage"]
    stages[1] = {**stages[0], "current_spacing": np.array([1.0, 1.0, 1.0])}
    del stages[0]["pool_op_kernel_sizes"], stages[0]["conv_kernel_sizes"]
    plans = load_nnunet_folder(write_results_v1(tmp_path / "r", information=information)).plans
    assert (plans.configuration, plans.spacing_mm) == ("3d_lowres", (2.5, 3.1, 2.2))
    assert (plans.ct_order, plans.transpose_forward) == (1, (0, 1, 2))
    information["init"] = (*information["init"][:5], 1, *information["init"][6:])
    plans = load_nnunet_folder(write_results_v1(tmp_path / "s", information=information)).plans
    assert (plans.configuration, plans.spacing_mm) == ("3d_fullres", (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("stage", "spacing", "patch"), [(0, (6.0, 3.0, 2.5), (8, 12, 16)), (1, (5.0, 0.9, 0.8), (4, 16, 24))]
)
def test_both_stages_of_a_pair_are_planned_along_the_nets_axes(tmp_path, stage, spacing, patch):
    """As nnU-Net 1.7.1's planner writes them: transposed already, so nothing is transposed again."""
    information = changed(transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0])
    stages, old = information["plans"]["plans_per_stage"], information["plans"]["plans_per_stage"][0]
    stages[0] = {**old, "current_spacing": np.array([6.0, 3.0, 2.5]), "patch_size": np.array([8, 12, 16])}
    stages[1] = {**old, "current_spacing": np.array([5.0, 0.9, 0.8]), "patch_size": np.array([4, 16, 24])}
    information["init"] = (*information["init"][:5], stage, *information["init"][6:])
    plans = load_nnunet_folder(write_results_v1(tmp_path / "r", information=information)).plans
    assert (plans.spacing_mm, plans.patch_size, plans.transpose_forward) == (spacing, patch, (2, 0, 1))
    grid = FileGrid((20, 30, 40), np.diag([-0.8, -0.9, 5.0, 1.0]))  # x, y, z
    assert plans.axes(grid).turn_spacing((5.0, 0.9, 0.8)) == (0.8, 5.0, 0.9)


OTHERS = [
    ({"num_modalities": 2}, (), "must see one channel, the CT, got 2"),
    (
        {"patch_size": np.array([16, 20])},
        ("plans_per_stage", 0),
        r"must be 3-D, got 3d_fullres with patches of \(16, 20\)",
    ),
    ({"current_spacing": np.array([1, 0, 1])}, ("plans_per_stage", 0), "spacing"),
    ({0: "nonCT"}, ("normalization_schemes",), "normalisation must be CT or noNorm, got nonCT"),
    ({0: True}, ("use_mask_for_norm",), "got use_mask_for_norm"),
    ({"preprocessor_name": "PreprocessorFor2D"}, (), "preprocessor must be GenericPreprocessor or .*, got Prepro"),
    ({"conv_per_stage": 3}, (), "must have two convolutions a stage, got 3"),
    ({"num_classes": 300}, (), "num_classes, without the background, must be a whole number from 1 to 254, got 300"),
    ({"transpose_forward": [0, 0, 1]}, (), "must be 0, 1 and 2 in some order"),
    ({"patch_size": np.array([12, 16, np.inf])}, ("plans_per_stage", 0), "patch_size must be a whole number from 1 to"),
    ({"num_classes": 3}, (), "must predict the 4 planned labels, got 5"),
    ({"base_num_features": 30}, (), "must be the planned net, .*30, 60, 120"),
    ({"base_num_features": 200}, (), "must be the planned net, .*200, 320, 320"),
    ({"plans_per_stage": {}}, (), "the stage must be one of , got 0"),
]


@pytest.mark.parametrize(("values", "where", "said"), OTHERS, ids=[said for _, _, said in OTHERS])
def test_what_is_not_supported_is_refused_in_one_line(tmp_path, values, where, said):
    information = changed(*where)
    part = information["plans"]
    for key in where:
        part = part[key]
    part.update(values)
    with pytest.raises(ValueError, match=said) as refused:
        load_nnunet_folder(write_results_v1(tmp_path / "r", information=information))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("trainer", "is_known"),
    [
        ("nnUNetTrainerV2_noMirroring", True),
        ("nnUNetTrainerV2_Loss_DiceTopK10", True),
        ("nnUNetTrainerV2_DA3", True),
        ("nnUNetTrainerV2_DA3_BN", False),
        ("nnUNetTrainerV2_ReLU", False),
        ("nnUNetTrainerV2_ResencUNet", False),
        ("nnUNetTrainerV2CascadeFullRes", False),
        ("nnUNetTrainerV2BraTSRegions", False),
        ("nnUNetTrainer", False),
        ("MyTrainer", False),
    ],
)
def test_only_trainers_of_the_standard_net_are_known(tmp_path, trainer, is_known):
    folder = write_results_v1(tmp_path / "r", folds=("fold_0",), information=information_v1() | {"name": trainer})
    if is_known:
        assert len(load_nnunet_folder(folder).folds) == 1
    else:
        with pytest.raises(ValueError, match=rf"\.model\.pkl: the trainer must be nnUNetTrainerV2, .*, got {trainer}$"):
            load_nnunet_folder(folder)


class Runs:
    def __reduce__(self):
        return os.system, ("touch RAN",)


def test_nothing_in_a_pickle_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    information = information_v1()
    information["plans"]["list_of_npz_files"] = [Runs()]
    folder = write_results_v1(tmp_path / "r", folds=("fold_0",), information=information)
    with pytest.raises(
        ValueError, match=r"\.model\.pkl must hold plain values alone, got (posix|nt)\.system, which could"
    ):
        load_nnunet_folder(folder)
    (folder / "fold_0" / f"{CHECKPOINT}.pkl").write_bytes(pickle.dumps(["no", "trainer"]))
    with pytest.raises(ValueError, match=r"must be that of a trainer of nnU-Net v1, got"):
        load_nnunet_folder(folder)
    (folder / "fold_0" / f"{CHECKPOINT}.pkl").unlink()
    with pytest.raises(FileNotFoundError):
        load_nnunet_folder(folder)
    assert not (tmp_path / "RAN").exists()


def test_folds_with_other_plans_are_not_averaged(tmp_path):
    folder = write_results_v1(tmp_path / "r")
    other = changed("plans_per_stage", 0, current_spacing=np.array([2.0, 2.0, 2.0]))
    (folder / "fold_1" / f"{CHECKPOINT}.pkl").write_bytes(pickle.dumps(other))
    with pytest.raises(ValueError, match=r"all folds must have the same plans, got others: .*fold_1"):
        load_nnunet_folder(folder)


def test_whatever_stands_in_a_values_place_plans_are_read_or_refused_in_one_line(monkeypatch):
    pools = changed()
    del pools["plans"]["plans_per_stage"][0]["pool_op_kernel_sizes"]
    n_refused = 0
    for original in (information_v1(), pools):
        for information in with_anything_in_every_place(original):
            monkeypatch.setattr(nnunet_v1, "read_pickle", lambda path, read=information: read)
            try:
                nnunet_v1.read_v1(Path("fold_0") / CHECKPOINT)
            except ValueError as error:
                n_refused += 1
                assert "\n" not in str(error)
    assert n_refused > 200
