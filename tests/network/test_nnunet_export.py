"""A net of ours as nnU-Net's: read back, it is the same net."""

import json

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from flare_lib.ct.labels import ORGAN_NAMES
from flare_lib.ct.preprocess import Preprocessing
from flare_lib.network.nnunet_export import nnunet_weights, save_nnunet_folder
from flare_lib.network.nnunet_folder import load_nnunet_folder
from flare_lib.network.nnunet_plans import Normalisation
from flare_lib.network.unet import UNet
from flare_lib.network.weights import TrainedNet

RECIPE = Preprocessing((3.0, 2.0, 2.5), (-300.0, 350.0), 20.0, 110.0)
PATCH = torch.randn((1, 1, 8, 16, 12), generator=torch.Generator().manual_seed(0))


def trained(recipe=RECIPE, **changes):
    torch.manual_seed(0)
    arguments = {"features_per_stage": (3, 4, 5), "strides": ((2, 2, 1), (1, 2, 2)), "n_heads": 1, **changes}
    return TrainedNet(UNet(**arguments).eval(), recipe, (8, 16, 12), {})


def test_an_exported_net_is_read_back_as_it_was(tmp_path):
    ours = trained()
    folder = save_nnunet_folder(tmp_path / "results", ours)
    assert folder == tmp_path / "results" / "Dataset922_FLARE22" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    model = load_nnunet_folder(folder)
    assert model.plans.normalisation == Normalisation("CTNormalization", (-300.0, 350.0), 20.0, 110.0)
    assert (model.plans.spacing_mm, model.plans.patch_size) == ((3.0, 2.0, 2.5), (8, 16, 12))
    assert (model.plans.names, model.plans.reorients) == (ORGAN_NAMES, True)
    assert model.plans.has_flares_organs
    with torch.no_grad():
        torch.testing.assert_close(model.folds[0].predict(PATCH), ours.net.finest(PATCH))


@pytest.mark.parametrize("bias", [True, False])
def test_nnunets_own_net_takes_the_weights_and_answers_the_same(bias):
    ours = trained(up_and_head_bias=bias).net
    theirs = PlainConvUNet(
        1,
        3,
        (3, 4, 5),
        nn.Conv3d,
        3,
        ((1, 1, 1), (2, 2, 1), (1, 2, 2)),
        (2, 2, 2),
        14,
        (2, 2),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
    )
    theirs.load_state_dict(nnunet_weights(ours))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(PATCH), ours.finest(PATCH), rtol=1e-4, atol=1e-5)


def test_what_nnunet_cannot_express_is_refused_and_nothing_written(tmp_path):
    for unfit, message in (
        (trained(Preprocessing((5.0, 5.0, 5.0))), "must have global normalisation .*got individual"),
        (trained(n_classes=3), r"must have 1 channel and 14 classes, got \(1, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            save_nnunet_folder(tmp_path / "results", unfit)
    assert not (tmp_path / "results").exists()


def test_another_export_is_never_replaced(tmp_path):
    folder = save_nnunet_folder(tmp_path, trained())
    before = json.loads((folder / "plans.json").read_text())
    with pytest.raises(ValueError, match="must not replace another one"):
        save_nnunet_folder(tmp_path, trained(Preprocessing((1.0, 1.0, 1.0), mean_hu=0.0, sd_hu=1.0)))
    assert json.loads((folder / "plans.json").read_text()) == before
