"""Growths lie at the places given and within their ranges; an organ that is removed leaves fat."""

import numpy as np
import pytest

from flare_lib.synthetic.structures import Structures, organ_labels
from flare_lib.synthetic.variation import draw_growths, remove_organs

PLACES = np.array([[10.0, 20.0, 30.0], [40.0, 5.0, 60.0]])


def person(**more):
    names = {0: "unlabelled", 1: "liver", 2: "gallbladder", 3: "kidney_left"} | {int(k[1:]): v for k, v in more.items()}
    array = np.zeros((4, 5, 6), np.uint8)
    array[:2], array[2, 1:3], array[3, :, 4:] = 1, 2, 3
    return Structures(array, names, (5.0, 4.0, 3.0))


def test_growths_lie_at_the_places_given_within_their_ranges_as_many_as_asked_for():
    drawn = [draw_growths(PLACES, np.random.default_rng(k), mean_number=5.0) for k in range(200)]
    assert abs(np.mean([len(growths) for growths in drawn]) - 5) < 0.5
    all_of_them = np.concatenate(drawn)
    assert {tuple(place) for place in all_of_them[:, :3]} == {tuple(place) for place in PLACES}
    assert 6 <= all_of_them[:, 3].min() < 7 and 43 < all_of_them[:, 3].max() <= 45
    assert 0.6 <= all_of_them[:, 4].min() < 0.62 and 1.57 < all_of_them[:, 4].max() <= 1.6
    assert abs(np.median(all_of_them[:, 4]) - np.sqrt(0.6 * 1.6)) < 0.03  # shrunk about as often as grown


def test_nothing_grows_when_none_is_asked_for_or_no_place_is_given():
    assert draw_growths(PLACES, np.random.default_rng(0), mean_number=0.0).shape == (0, 5)
    assert draw_growths(np.empty((0, 3)), np.random.default_rng(0), mean_number=9.0).shape == (0, 5)


def test_an_organ_that_is_removed_has_no_voxels_and_what_is_left_is_fat():
    before = person(_7="fat")
    after = remove_organs(before, np.random.default_rng(0), {"kidney_left": 1.0})
    assert set(np.unique(organ_labels(before))) == {0, 1, 9, 13}
    assert set(np.unique(organ_labels(after))) == {0, 1, 9}
    assert (after.array_zyx[before.array_zyx == 3] == 7).all()
    assert (after.array_zyx[before.array_zyx != 3] == before.array_zyx[before.array_zyx != 3]).all()


def test_without_fat_what_is_left_is_unlabelled():
    after = remove_organs(person(), np.random.default_rng(0), {"gallbladder": 1.0})
    assert (after.array_zyx[2] == 0).all()


def test_organs_go_as_often_as_asked_for_and_each_for_itself():
    draws = [
        np.unique(
            remove_organs(person(), np.random.default_rng(k), {"gallbladder": 0.2, "kidney_left": 0.6}).array_zyx
        ).tolist()
        for k in range(400)
    ]
    assert abs(np.mean([2 not in ids for ids in draws]) - 0.2) < 0.06
    assert abs(np.mean([3 not in ids for ids in draws]) - 0.6) < 0.07
    assert any(2 not in ids and 3 not in ids for ids in draws)


def test_a_structure_that_nobody_has_is_passed_over_and_a_map_without_a_filling_is_refused():
    bare = Structures(np.ones((2, 3, 4), np.uint8), {1: "spleen"}, (5.0, 4.0, 3.0))
    assert remove_organs(bare, np.random.default_rng(0), {"liver": 1.0}) is bare
    with pytest.raises(ValueError, match=r"must name fat or unlabelled, got \['spleen'\]"):
        remove_organs(bare, np.random.default_rng(0), {"spleen": 1.0})
