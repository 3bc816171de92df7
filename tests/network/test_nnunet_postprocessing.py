"""nnU-Net v1's rules for cleaning up: read as it writes them, or refused."""

import json
import math

import pytest
from small_nnunet import write_results_v1

from flare_lib.network.nnunet_folder import load_nnunet_folder, model_files
from flare_lib.network.nnunet_postprocessing import LargestOnly, read_postprocessing

LABELS = [1, 2, 3, 4]


def written(folder, **content):
    (folder / "postprocessing.json").write_text(json.dumps(content))
    return folder / "postprocessing.json"


@pytest.mark.parametrize(
    ("content", "rules"),
    [
        ({"for_which_classes": [], "min_valid_object_sizes": "None"}, ()),
        ({"for_which_classes": [3, 1]}, (LargestOnly((3,)), LargestOnly((1,)))),
        ({"for_which_classes": None}, tuple(LargestOnly((label,)) for label in LABELS)),
        (
            {"for_which_classes": [[1, 2, 3, 4], 2], "min_valid_object_sizes": "{(1, 2, 3, 4): 2500.5, 2: 40}"},
            (LargestOnly((1, 2, 3, 4), 2500.5), LargestOnly((2,), 40.0)),
        ),
    ],
)
def test_rules_are_read_in_their_order(tmp_path, content, rules):
    assert read_postprocessing(written(tmp_path, **content, num_samples=7), LABELS) == rules
    assert math.isinf(LargestOnly((3,)).min_mm3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"for_which_classes": [5]}, "every number of for_which_classes must be a whole number from 1 to 4, got 5"),
        ({"for_which_classes": [0]}, "from 1 to 4, got 0"),
        ({"for_which_classes": ["liver"]}, "from 1 to 4, got 'liver'"),
        ({"for_which_classes": 3}, "must be that of nnU-Net v1, got 'int' object is not iterable"),
        ({}, "must be that of nnU-Net v1, got no 'for_which_classes'"),
        ({"for_which_classes": [1], "min_valid_object_sizes": "{2: 5}"}, "must be that of nnU-Net v1, got no 1"),
        (
            {"for_which_classes": [1], "min_valid_object_sizes": "{1: -5}"},
            "valid size of 1 must be .*, got -5",
        ),
        ({"for_which_classes": [1], "min_valid_object_sizes": "__import__('os')"}, "malformed node"),
        ({"for_which_classes": [1], "min_valid_object_sizes": "{1:"}, "must be that of nnU-Net v1, got"),
        ({"for_which_classes": [1], "min_valid_object_sizes": 3}, "must be that of nnU-Net v1, got|malformed"),
    ],
)
def test_what_is_none_is_refused_in_one_line(tmp_path, content, said):
    with pytest.raises(ValueError, match=said) as refused:
        read_postprocessing(written(tmp_path, **content), LABELS)
    assert str(refused.value).startswith(str(tmp_path / "postprocessing.json"))
    assert "\n" not in str(refused.value)


def test_something_else_under_its_name_is_refused(tmp_path):
    for content in (b"", b"[1, 2]", b"\x80\x04"):
        (tmp_path / "postprocessing.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"postprocessing\.json"):
            read_postprocessing(tmp_path / "postprocessing.json", LABELS)


def test_a_folders_rules_are_files_of_its_model(tmp_path):
    folder = write_results_v1(tmp_path / "r", folds=("fold_0",))
    assert load_nnunet_folder(folder).rules == ()
    written(folder, for_which_classes=[[1, 2]])
    assert load_nnunet_folder(folder).rules == (LargestOnly((1, 2)),)
    assert folder / "postprocessing.json" in model_files(folder)
