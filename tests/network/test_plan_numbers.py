"""Numbers in plans: what is taken, and what is refused by its name."""

import math

import numpy as np
import pytest

from flare_lib.network import plan_numbers as numbers


def test_what_json_and_pickles_hold_is_taken():
    assert numbers.finite(np.float64(-2.5), "mean") == -2.5
    assert numbers.finite(0, "std", negative=False) == 0.0
    assert numbers.whole(np.int64(7), "n", 1, 9) == 7
    assert numbers.whole(7.0, "n", 1, 9) == 7
    assert numbers.wholes(np.array([4, 5, 6]), "n", 1, 9, 3) == [4, 5, 6]
    assert numbers.of_stages(2, "n", 1, 9, 3) == [2, 2, 2]
    assert numbers.of_stages_and_axes([1, [1, 2, 3]], "strides", 1, 9, 2) == [[1, 1, 1], [1, 2, 3]]
    assert numbers.planned_spacing(np.array([2.5, 3, 1.25]), "spacing") == (2.5, 3.0, 1.25)
    assert numbers.planned_patch([12, 16, 20], "3d") == (12, 16, 20)
    assert numbers.planned_order([1, 0, 2]) == (1, 0, 2)
    numbers.check_strides((12, 16, 20), [[1, 1, 1], [1, 2, 2], [2, 2, 2]])


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (lambda: numbers.finite(math.inf, "mean"), "mean must be a finite number, got inf"),
        (lambda: numbers.finite(1e39, "mean"), "mean must be a finite number, got 1e\\+39"),
        (lambda: numbers.finite(10**400, "mean"), "mean must be a finite number, got 1000"),
        (lambda: numbers.finite("40", "mean"), "mean must be a finite number, got '40'"),
        (lambda: numbers.finite(-1, "std", negative=False), "std must be a finite number, 0 or more, got -1"),
        (lambda: numbers.whole(math.nan, "n", 1, 9), "n must be a whole number from 1 to 9, got nan"),
        (lambda: numbers.whole(2.5, "n", 1, 9), "n must be a whole number from 1 to 9, got 2.5"),
        (lambda: numbers.whole(True, "n", 1, 9), "n must be a whole number from 1 to 9, got True"),
        (lambda: numbers.wholes("123", "n", 1, 9), "n must be whole numbers, got '123'"),
        (lambda: numbers.wholes(np.ones((2, 2)), "n", 1, 9), r"n must be whole numbers, got array\(\[\["),
        (lambda: numbers.wholes([1, 2], "n", 1, 9, 3), r"n must be 3 whole numbers, got \[1, 2\]"),
        (lambda: numbers.of_stages_and_axes([[1, 1, 1]], "strides", 1, 9, 2), "strides must be those of 2 stages, got"),
        (
            lambda: numbers.planned_spacing([1, 1, 1e-9], "spacing"),
            "spacing must be 3 numbers from 0.01 to 100 mm, got",
        ),
        (lambda: numbers.planned_patch([16, 20], "2d"), r"must be 3-D, got 2d with patches of \(16, 20\)"),
        (
            lambda: numbers.planned_patch([2048] * 3, "3d"),
            r"patch_size must be that of at most 134,217,728 voxels, got",
        ),
        (lambda: numbers.check_strides((12, 16, 18), [[2, 2, 2], [1, 2, 2]]), "a multiple of all .*, 2 x 4 x 4, got"),
        (lambda: numbers.check_layer("conv_bias", 1), "conv_bias must be true or false, got 1"),
        (lambda: numbers.check_layer("norm_op", ["x"]), "norm_op must be the name of a class, or null, got"),
        (lambda: numbers.check_layer("norm_op_kwargs", []), r"norm_op_kwargs must be an object, or null, got \[\]"),
        (
            lambda: numbers.check_layer("norm_op_kwargs", {"eps": -1}),
            "eps in norm_op_kwargs must be .*, 0 or more, got -1",
        ),
        (
            lambda: numbers.check_layer("nonlin_kwargs", {"slope": math.inf}),
            "slope in nonlin_kwargs must be a finite num",
        ),
    ],
)
def test_anything_else_is_refused_by_its_name(refused, said):
    with pytest.raises(ValueError, match=said) as error:
        refused()
    assert len(str(error.value)) < 200
