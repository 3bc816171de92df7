"""What a card took, as stored: a table, or "not measured"."""

import json

import pytest

from flare_lib.evaluation.gpu_record import HEADER, NOT_MEASURED, gpu_table

ROWS = [
    {
        **{
            "section": "resize",
            "what": "ours, triton",
            "shape": [4, 5, 6],
            "device": "cuda:0",
            "seconds": 0.01234,
        },
        **{"n": 5, "peak_mib": 101, "seconds_with_transfer": 0.4567, "voxels_that_differ": 1234, "mean_dice": 0.99912},
    },
    {
        **{"section": "patch", "what": "float32", "shape": [96, 128, 160], "device": "cuda:0", "seconds": None},
        **{"n": 0, "peak_mib": None, "said": "out of memory"},
    },
    {
        **{"section": "patch", "what": "bfloat16", "shape": [96, 128, 160], "device": "cpu", "seconds": 4.0, "n": 3},
        **{"peak_mib": 1500, "share_that_differs": 0.00125},
    },
]
LINES = [
    "| resize | ours, triton | 4 x 5 x 6 | cuda:0 | 0.01234 (5) | 0.4567 | 101 | 1,234 voxels differ, Dice 0.99912 |",
    "| patch | float32 | 96 x 128 x 160 | cuda:0 | out of memory |  |  |  |",
    "| patch | bfloat16 | 96 x 128 x 160 | cpu | 4 (3) |  | 1500 | 0.12% differ |",
]


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"card": "A Card", "rows": ROWS, "left_out_or_unfinished": []}))
    return path


def test_a_record_is_a_table_of_all_it_holds(stored):
    assert gpu_table(stored) == "\n".join(["Card: A Card.\n", HEADER, *LINES])


def test_sections_can_be_chosen(stored):
    assert gpu_table(stored, ["patch"]).splitlines()[-2:] == LINES[1:]
    assert LINES[0] not in gpu_table(stored, ["patch"])
    assert gpu_table(stored, ["step"]) == NOT_MEASURED


def test_what_was_not_measured_is_said(tmp_path):
    assert gpu_table(tmp_path / "gpu.json") == NOT_MEASURED


@pytest.mark.parametrize("content", ["{", "[]", '{"card": "a", "rows": [{"section": "patch"}]}', '{"rows": []}'])
def test_another_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "gpu.json").write_text(content)
    with pytest.raises(ValueError, match=r"gpu\.json must be what benchmarks/gpu\.py has stored, got "):
        gpu_table(tmp_path / "gpu.json")
