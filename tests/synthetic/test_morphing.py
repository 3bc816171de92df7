"""Morphs: nothing of the way is the same person, all of it has the other's shapes; and pairs are taken in turn."""

import numpy as np
import pytest
from ellipsoids import QUICK, SPACING, dice, person

from flare_lib.synthetic.morphing import FRACTIONS, morph, people_between
from flare_lib.synthetic.registration import Correspondence, correspondence
from flare_lib.synthetic.structures import Structures


def plain_shift(shift_zyx_mm, shape=(2, 3, 4)):
    field = np.broadcast_to(np.reshape(shift_zyx_mm, (3, 1, 1, 1)), (3, *shape)).astype(np.float32)
    return Correspondence(field, np.array([20.0, 30.0, 40.0]), 25.0, {})


def test_a_translation_moves_the_map_by_as_many_voxels_and_half_of_it_by_half_as_many():
    before = person()
    there = plain_shift((12.0, -10.0, 8.0))  # 2, -2 and 2 voxels
    assert (morph(before, there, 0.0).array_zyx == before.array_zyx).all()
    whole, half = morph(before, there, 1.0).array_zyx, morph(before, there, 0.5).array_zyx
    assert (whole[:-2, 2:, :-2] == before.array_zyx[2:, :-2, 2:]).all()
    assert (half[:-1, 1:, :-1] == before.array_zyx[1:, :-1, 1:]).all()
    assert (whole[-2:, 2:, :-2] == before.array_zyx[-1:, :-2, 2:]).all()  # the last slice goes on beyond the map


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_between_the_grids_points_the_displacement_is_linear_and_beyond_them_constant(axis):
    ramp = np.zeros((3, 3, 3, 3), np.float32)
    ramp[axis] = np.moveaxis(np.broadcast_to([0.0, 30.0, 60.0], (3, 3, 3)), 2, axis)
    there = Correspondence(ramp, np.array([30.0, 30.0, 30.0]), 30.0, {})
    ids = np.moveaxis(np.broadcast_to(np.arange(200, dtype=np.uint8), (2, 3, 200)), 2, axis).copy()
    counted = Structures(ids, {i: str(i) for i in range(200)}, (1.0, 1.0, 1.0))
    line = np.moveaxis(morph(counted, there, 1.0).array_zyx, axis, 2)[1, 1]
    expected = np.arange(200) + 0.5 + np.interp(np.arange(200) + 0.5, [30, 60, 90], [0, 30, 60])
    assert (line == np.clip(np.floor(expected), 0, 199)).all()


def test_the_way_leads_to_the_others_shapes_and_half_of_it_lies_between():
    # no centre moves, so that the other is laid over this one as it stands
    other = person(stomach=((120, 160, 150), (50, 34, 22)), spleen=((120, 80, 190), (20, 34, 30)))
    here = person()
    there = correspondence(here, other, **QUICK)
    arrived, halfway = morph(here, there, 1.0), morph(here, there, 0.5)
    for name in ("stomach", "spleen"):
        assert dice(here, other, name) < 0.75 and dice(arrived, other, name) > 0.78
        assert dice(here, other, name) + 0.01 < dice(halfway, other, name) < dice(arrived, other, name) - 0.02
        assert dice(halfway, here, name) > dice(arrived, here, name) + 0.03
    for name in ("liver", "kidney_left", "vertebrae_L1"):
        assert dice(arrived, other, name) > 0.9


def test_people_between_use_every_pair_once_and_depend_on_the_seed_alone(monkeypatch):
    asked = []

    def recorded(a, b):
        asked.append((a.array_zyx.size, b.array_zyx.size))
        return plain_shift((24.0, 0.0, 0.0))

    monkeypatch.setattr("flare_lib.synthetic.morphing.correspondence", recorded)
    people = [Structures(person().array_zyx[:n].copy(), person().names, SPACING) for n in (28, 30, 32)]
    told = []
    between = people_between(people, 8, seed=3, progress=lambda done, total: told.append((done, total)))
    assert len(asked) == len(set(asked)) == 6  # of three people; the last two are made from known correspondences
    assert told == [(k, 8) for k in range(1, 9)]
    again = people_between(people, 8, seed=3)
    assert all((a.array_zyx == b.array_zyx).all() for a, b in zip(between, again, strict=True))
    # at least FRACTIONS[0] of 24 mm and at most FRACTIONS[1]: two or three voxels of 6 mm, rounded
    moved = {
        next(s for s in range(1, 5) if (b.array_zyx[:20] == p.array_zyx[s : 20 + s]).all())
        for b in between
        for p in people
        if p.array_zyx.shape == b.array_zyx.shape
    }
    low, high = (24 * f / 6 for f in FRACTIONS)
    assert moved <= set(range(int(low), int(high) + 2))
    assert people_between(people, 0, seed=3) == people_between(people[:1], 2, seed=3) == []


def test_a_pair_with_too_little_in_common_is_passed_over(monkeypatch):
    def of_equals(a, b):
        if a.names != b.names:
            raise ValueError("two people must have at least four whole structures in common, got []")
        return plain_shift((24.0, 0.0, 0.0))

    monkeypatch.setattr("flare_lib.synthetic.morphing.correspondence", of_equals)
    head = Structures(person().array_zyx, {i: f"skull_{i}" for i in range(8)}, SPACING)
    between = people_between([head, person(), person()], 5, seed=1)
    assert [one.names for one in between] == [person().names] * 5
    assert people_between([head, person()], 5, seed=1) == []


def test_a_correspondence_is_found_once_and_kept(monkeypatch, tmp_path):
    asked = []

    def recorded(a, b):
        asked.append(1)
        found = plain_shift((24.0, 0.0, float(len(asked))))
        return Correspondence(found.shift_mm, found.start_mm, found.spacing_mm, {"liver": 0.9, "aorta": 0.8})

    monkeypatch.setattr("flare_lib.synthetic.morphing.correspondence", recorded)
    people = [person(), person(liver=((100, 120, 60), (50, 50, 40)))]
    first = people_between(people, 3, seed=2, cache=tmp_path)
    again = people_between(people, 3, seed=2, cache=tmp_path)
    assert len(asked) == len(list(tmp_path.iterdir())) == 2
    assert all((a.array_zyx == b.array_zyx).all() for a, b in zip(first, again, strict=True))
    next(tmp_path.iterdir()).write_bytes(b"PK damaged")
    people_between(people, 3, seed=2, cache=tmp_path)
    assert len(asked) == 3
    people_between([people[0], person(aorta=((95, 85, 125), (70, 9, 9)))], 2, seed=2, cache=tmp_path)
    assert len(asked) == 5  # another person, other files
