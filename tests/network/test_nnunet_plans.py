"""nnU-Net's plans: what is read from them, and what is refused in one line."""

import numpy as np
import pytest
from small_nnunet import DATASET, NAMES, PLANS, plans
from spoilt_plans import with_anything_in_every_place

from flare_lib.ct.axes import Axes
from flare_lib.ct.labels import ORGANS
from flare_lib.ct.volume import FileGrid
from flare_lib.network.nnunet_plans import Normalisation, Scaling, read_plans

IMAGE = np.array([[-100.0, 0.0], [50.0, 250.0]])

OLDER = plans(
    UNet_class_name="PlainConvUNet",
    UNet_base_num_features=4,
    unet_max_num_features=6,
    n_conv_per_stage_encoder=[2, 2, 2],
    n_conv_per_stage_decoder=[2, 2],
    conv_kernel_sizes=[[3, 3, 3]] * 3,
    pool_op_kernel_sizes=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
)
del OLDER["configurations"]["3d_fullres"]["architecture"]


def read(changed=PLANS, dataset=DATASET, configuration="3d_fullres"):
    return read_plans(changed, dataset, configuration)


def test_everything_a_net_needs_is_read():
    found = read()
    assert (found.spacing_mm, found.patch_size) == ((2.5, 3.1, 2.2), (12, 16, 20))
    assert found.normalisation == Normalisation("CTNormalization", (-600.0, 420.0), 40.0, 130.0)
    assert (found.names, found.n_classes, found.ct_order) == (NAMES, 5, 3)
    assert found.architecture.name == "PlainConvUNet"
    assert found.architecture.arguments["features_per_stage"] == [4, 6, 8]
    assert found.size_multiple == (2, 4, 4)
    assert not found.has_flares_organs


def test_a_configuration_inherits():
    assert read(configuration="3d_child").patch_size == (12, 16, 20)


def test_the_axes_are_the_files_or_the_canonical_ones_in_the_planned_order():
    left_front_down = FileGrid((4, 5, 6), np.diag([-1.0, 1.0, -2.0, 1.0]))
    assert read().axes(left_front_down) == Axes((1, 0, 2), (False, True, True))
    reorienting = {**PLANS, "image_reader_writer": "NibabelIOWithReorient"}
    assert read(reorienting).axes(left_front_down) == Axes((1, 0, 2))


@pytest.mark.parametrize(
    ("scheme", "scaling"),
    [
        ("CTNormalization", Scaling((-600.0, 420.0), 40.0, 130.0)),
        ("ZScoreNormalization", Scaling((-np.inf, np.inf), 50.0, float(np.std(IMAGE)))),
        ("RescaleTo01Normalization", Scaling((-np.inf, np.inf), -100.0, 350.0)),
        ("NoNormalization", Scaling((-np.inf, np.inf), 0.0, 1.0)),
    ],
)
def test_each_scheme_scales_as_nnunet_does(scheme, scaling):
    assert read(plans(normalization_schemes=[scheme])).normalisation.scaling_of(IMAGE) == scaling


def test_an_image_without_contrast_becomes_0():
    flat = np.full((2, 3), 7)
    assert Normalisation("ZScoreNormalization").scaling_of(flat) == Scaling((-np.inf, np.inf), 7.0, 1e-8)
    assert Normalisation("RescaleTo01Normalization").scaling_of(flat) == Scaling((-np.inf, np.inf), 7.0, 1e-8)


def test_older_plans_say_the_same_in_other_words():
    older = {**OLDER}
    newer = read().architecture.arguments
    older["foreground_intensity_properties_by_modality"] = older.pop("foreground_intensity_properties_per_channel")
    found = read(older, {**DATASET, "modality": {"0": "CT"}})
    assert found.architecture.arguments["features_per_stage"] == [4, 6, 6]
    same = {key: found.architecture.arguments[key] for key in newer if key not in ("nonlin", "features_per_stage")}
    assert same == {key: newer[key] for key in same}
    assert found.normalisation == read().normalisation


def test_flares_organs_are_known_by_name_or_abbreviation():
    for names in (
        {o.name: o.id for o in ORGANS},
        {o.name.replace(" ", "_").upper(): o.id for o in ORGANS},
        {o.abbreviation: o.id for o in ORGANS},
    ):
        assert read(dataset={**DATASET, "labels": {"background": 0, **names}}).has_flares_organs
    swapped = {**{o.name: o.id for o in ORGANS}, "right kidney": 13, "left kidney": 2}
    assert not read(dataset={**DATASET, "labels": {"background": 0, **swapped}}).has_flares_organs


def test_a_label_to_be_ignored_is_none_and_a_list_of_one_is_one():
    labels = {"background": 0, "a": [1], "b": 2, "ignore": 3}
    assert read(dataset={**DATASET, "labels": labels}).names == {1: "a", 2: "b"}


SPLINES = PLANS["configurations"]["3d_fullres"]["resampling_fn_data_kwargs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization_schemes": ["RGBTo01Normalization"]}, "the normalisation must be one of .*got RGBTo01"),
        ({"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True]}, "got use_mask_for_norm"),
        ({"resampling_fn_data": "no_resampling_data_or_seg_to_shape"}, "data must be resampled by .*got no_resampling"),
        (
            {"resampling_fn_data_kwargs": {**SPLINES, "order": 9}},
            "resampling must be a whole number from 0 to 5, got 9",
        ),
        ({"resampling_fn_probabilities_kwargs": {**SPLINES, "order": 3}}, "probabilities must be resampled"),
        (
            {"architecture": {"network_class_name": "a.Primus", "arch_kwargs": {}}},
            "must be a PlainConvUNet or .*Primus",
        ),
        ({"spacing": [1.0, 0.0, 1.0]}, "spacing must be 3 numbers from 0.01 to 100 mm, got"),
        (
            {"patch_size": [12, 16, float("inf")]},
            "every number of patch_size must be a whole number from 1 to 2048, got in",
        ),
        ({"patch_size": [12, 18, 20]}, r"a multiple of all strides together, 2 x 4 x 4, got \(12, 18, 20\)"),
        ({"inherits_from": "3d_fullres"}, "a configuration must not inherit from itself, got 3d_fullres"),
        ({"preprocessor_name": "Mine"}, "preprocessor_name must be nnU-Net's DefaultPreprocessor, got Mine"),
        ({"patch_size": None}, "patch_size must be whole numbers, got None"),
        ({"normalization_schemes": None}, "must be those of nnU-Net v2, got "),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        read(plans(**changes))


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ("2d", r"must be 3-D, got 2d with patches of \(16, 20\)"),
        ("3d_cascade_fullres", "a cascade is not supported, got 3d_cascade_fullres, which needs .* 3d_lowres"),
        ("3d_lowres", "must be one of 3d_fullres, 3d_child, 2d, 3d_cascade_fullres, got 3d_lowres"),
    ],
)
def test_configurations_of_other_kinds_are_refused(configuration, message):
    with pytest.raises(ValueError, match=message):
        read(configuration=configuration)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": {"0": "T1", "1": "T2"}}, "one channel, the CT, got 2: T1, T2"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "single numbers, got regions: whole"),
        (
            {"labels": {"background": 0, "a": 2}},
            r"labels must be 0 \(background\), 1, 2... up to 254, each once, got \[0, 2\]",
        ),
        ({"labels": {"0": "background", "1": "a"}}, "must be {name: number}, as in nnU-Net v2, got 'background' for a"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, r"each once, got \[0, 1, 1\]"),
        ({"labels": {"background": 0, "a": []}}, r"as in nnU-Net v2, got \[\] for a number"),
        ({"labels": None}, "must be those of nnU-Net v2, got"),
    ],
)
def test_data_sets_of_other_kinds_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        read(dataset={**DATASET, **changes})


@pytest.mark.parametrize(
    ("read_changed", "original"),
    [
        (read, PLANS),
        (read, OLDER),
        (lambda changed: read(dataset=changed), DATASET),
    ],
    ids=["plans", "older plans", "data set"],
)
def test_whatever_stands_in_a_values_place_plans_are_read_or_refused_in_one_line(read_changed, original):
    n_refused = 0
    for changed in with_anything_in_every_place(original):
        try:
            read_changed(changed)
        except ValueError as error:
            n_refused += 1
            assert "\n" not in str(error)
    assert n_refused > 50


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="must be those of nnU-Net v2, got no 'transpose_forward'"):
        read({key: value for key, value in PLANS.items() if key != "transpose_forward"})
    with pytest.raises(ValueError, match=r"transpose_forward must be 0, 1 and 2 in some order, got \(0, 0, 1\)"):
        read({**PLANS, "transpose_forward": [0, 0, 1]})
    with pytest.raises(ValueError, match=r"label_manager must be nnU-Net's LabelManager, got Mine"):
        read({**PLANS, "label_manager": "Mine"})
    with pytest.raises(ValueError, match=r"must have been read by one of SimpleITKIO.*got Tiff3DIO"):
        read({**PLANS, "image_reader_writer": "Tiff3DIO"})
