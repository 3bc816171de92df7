"""Doubts about anatomy: boxes where organs lie, and the same person mirrored, upside down, shrunk or with less."""

import numpy as np
import pytest
from typer.main import get_command

from flare_lib.cli import app
from flare_lib.ct.labels import ORGANS, organ
from flare_lib.ct.volume import Volume
from flare_lib.inference.plausibility import MAX_SCALE, anatomy_doubts

SPACING = (5.0, 3.0, 4.0)
SHAPE = (70, 60, 90)
# lowest and highest in mm along z, y, x: a person in boxes
PERSON = {
    "liver": ((160, 300), (60, 160), (220, 320)),
    "right kidney": ((100, 200), (30, 60), (240, 290)),
    "spleen": ((190, 290), (30, 80), (40, 90)),
    "pancreas": ((190, 220), (90, 120), (130, 210)),
    "aorta": ((50, 320), (66, 81), (164, 180)),
    "inferior vena cava": ((50, 320), (66, 81), (192, 212)),
    "right adrenal gland": ((205, 225), (36, 48), (224, 236)),
    "left adrenal gland": ((205, 225), (36, 48), (108, 120)),
    "gallbladder": ((150, 185), (110, 140), (180, 212)),
    "esophagus": ((270, 340), (84, 96), (164, 180)),
    "stomach": ((200, 290), (100, 160), (60, 140)),
    "duodenum": ((120, 190), (84, 108), (180, 212)),
    "left kidney": ((100, 200), (30, 60), (60, 110)),
}


def person(**changes):
    """The person above, canonical; `changes` by organ (underscores for spaces): other places, or None for none."""
    labels = np.zeros(SHAPE, np.uint8)
    for name, place in {**PERSON, **{k.replace("_", " "): v for k, v in changes.items()}}.items():
        if place is not None:
            box = tuple(slice(round(a / mm), round(b / mm)) for (a, b), mm in zip(place, SPACING, strict=True))
            labels[box] = organ(name).id
    return labels


def doubts(labels, ct=None):
    ct = np.zeros(SHAPE, np.int16) if ct is None else ct
    return anatomy_doubts(Volume.from_array(ct, SPACING), labels)


def test_a_whole_person_leaves_nothing_to_doubt():
    assert doubts(person()) == ()


def test_volumes_do_not_depend_on_how_finely_the_scan_sees():
    labels = person().repeat(3, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    ct = Volume.from_array(np.zeros(labels.shape, np.int16), (5 / 3, 1.5, 2.0))
    assert anatomy_doubts(ct, labels) == ()


def lying(spine_y_mm, spine_x_mm=(170, 200), *, width_mm=330, depth_mm=200):
    """The CT of a body with a spine, canonical."""
    ct = np.full(SHAPE, -1000, np.int16)
    (_, y, x), (low_y, high_y), (low_x, high_x) = SPACING, spine_y_mm, spine_x_mm
    ct[:, round(5 / y) : round(depth_mm / y), round(5 / x) : round(width_mm / x)] = 40
    ct[:, round(low_y / y) : round(high_y / y), round(low_x / x) : round(high_x / x)] = 500
    return ct


@pytest.mark.parametrize(
    ("ct", "told"),
    [
        (lying((20, 60)), None),
        (lying((140, 180)), "the bones lie in the front half of the body: does the header say correctly"),
        (lying((80, 120), (20, 60), width_mm=200, depth_mm=178), None),  # an arm beside the body, perhaps
        (lying((60, 100), (20, 60), width_mm=150, depth_mm=178), "the bones lie on one side of the body: does the"),
        (np.full(SHAPE, 40, np.int16), None),  # no bone at all
    ],
)
def test_a_header_that_turns_the_person_around_is_doubted(ct, told):
    found = [doubt for doubt in doubts(person(), ct) if "bones" in doubt]
    assert [doubt.startswith(told) for doubt in found] == ([True] if told else [])
    alone = np.where(person() == organ("liver").id, person(), 0)  # a head in which a net has seen a liver, perhaps
    assert not any("bones" in doubt for doubt in doubts(alone, ct))


@pytest.mark.parametrize("empty", [False, True])
def test_a_scan_too_coarse_too_thin_or_askew_is_doubted(empty):
    labels = np.zeros(SHAPE, np.uint8) if empty else person()
    ct = np.zeros(SHAPE, np.int16)
    assert not {"large", "thick:", "askew"} & set(" ".join(doubts(labels)).split())

    def last(spacing, affine=None, shape=SHAPE):
        part = tuple(map(slice, shape))
        volume = Volume.from_array(ct[part], spacing)
        volume = volume if affine is None else Volume(ct[part], spacing, affine)
        return anatomy_doubts(volume, labels[part])[-1]

    assert last((10.5, 3.0, 4.0)) == "voxels of 10.5 x 3 x 4 mm (z, y, x) are too large to tell the organs apart"
    assert last(SPACING, shape=(3, 60, 90)) == "the scan is only 15 mm thick: organs are known by what surrounds them"
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]]
    assert last(SPACING, turn @ np.diag([4.0, 3.0, 5.0, 1.0])).startswith("the scan lies up to 40 degrees askew")


def field_of(width_mm, depth_mm, *, table=False, padding=None, moved_mm=0):
    """The CT of an elliptic body in a field of 360 x 180 mm (x, y)."""
    _, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    away = np.hypot((x * 4.0 - 180 - moved_mm) / (width_mm / 2), (y * 3.0 - 90) / (depth_mm / 2))
    ct = np.where(np.broadcast_to(away < 1, SHAPE), 40, -1000).astype(np.int16)
    if table:
        ct[:, 8:10] = 0
    if padding is not None:
        ct[:, :, 70:] = padding
    return ct


def small(ct, scale=1.0):
    found = anatomy_doubts(Volume.from_array(ct, SPACING), person(), scale=scale)
    return [doubt for doubt in found if "across" in doubt]


def test_a_childs_body_is_noted_with_the_scale_that_makes_it_an_adults():
    (told,) = small(field_of(180, 120))
    assert told.startswith("the body is only 146 mm across, as a child's is")
    assert "--scale 1.9 " in told
    assert small(field_of(180, 120, table=True)) == [told]
    assert small(field_of(320, 170)) == []


def test_a_body_that_nets_saw_large_enough_or_cannot_see_larger_is_not_doubted():
    child = field_of(180, 120)
    told = small(child)
    assert [small(child, scale) for scale in (1.3, 1.4, MAX_SCALE, None)] == [told, [], [], []]
    assert small(field_of(60, 40), MAX_SCALE) == []  # there is nothing to advise


def test_no_more_than_flare_segment_takes_is_advised():
    scale = next(p for p in get_command(app).commands["segment"].params if p.name == "scale")
    assert scale.max == MAX_SCALE
    (told,) = small(field_of(70, 60))
    assert f"--scale {MAX_SCALE} " in told


def test_a_body_that_the_field_cuts_is_no_childs():
    assert small(field_of(180, 120, moved_mm=120)) == []
    assert small(field_of(180, 120, moved_mm=60, padding=-2000)) == []
    assert small(field_of(800, 400)) == []


def test_a_spleen_nearly_as_large_as_the_liver_is_doubted():
    """The nets call much of a mirrored liver a spleen: no organ then lies on the wrong side."""
    large = person(spleen=((160, 290), (30, 130), (10, 92)), liver=((180, 300), (60, 160), (220, 320)))
    [told] = [doubt for doubt in doubts(large) if "spleen" in doubt]
    assert told == "the spleen has 956 mL and the liver 1188: is the CT mirrored, or the spleen swollen?"
    smaller = person(spleen=((160, 290), (30, 115), (10, 92)), liver=((180, 300), (60, 160), (220, 320)))
    assert not any("spleen" in doubt for doubt in doubts(smaller))
    padded = np.zeros(SHAPE, np.int16)
    padded[:, :, 80:] = -3024  # from the liver's right side on
    assert not any("spleen" in doubt for doubt in doubts(large, padded))


def test_a_scan_without_organs_is_doubted():
    assert doubts(np.zeros(SHAPE, np.uint8)) == ("none of the 13 organs was found: does this CT show an abdomen?",)


def test_a_mirrored_person_is_doubted():
    told = doubts(person()[:, :, ::-1])
    assert "the liver lies to the left of the spleen: is the CT mirrored?" in told
    assert "the right kidney lies to the left of the left kidney: is the CT mirrored?" in told


def test_a_person_upside_down_is_doubted_by_one_kidney_too():
    told = "the kidneys lie above the liver: is the CT upside down?"
    assert told in doubts(person()[::-1])
    assert told in doubts(person(left_kidney=None)[::-1])
    assert told not in doubts(person(liver=None)[::-1])
    assert told not in doubts(person(left_kidney=None, right_kidney=None)[::-1])
    assert told not in doubts(person(right_kidney=((310, 345), *PERSON["right kidney"][1:])))  # one of two


SPECK = ((5, 10), (3, 6), (4, 8))  # one voxel, 0.06 mL, low and far to the left


def test_a_speck_of_an_organ_does_not_tell_where_it_lies():
    told = doubts(person(liver=SPECK))
    assert not any("mirrored" in doubt or "upside down" in doubt for doubt in told)
    assert "the liver has 0.1 mL, outside the 200 to 6000 mL that people have" in told
    assert not any(doubt.startswith("no ") for doubt in doubts(person(liver=SPECK, gallbladder=None)))


def test_nothing_is_missed_between_neighbours_of_which_the_upper_one_lies_below():
    assert not any(doubt.startswith("no pancreas") for doubt in doubts(person(pancreas=None)[::-1]))


def test_a_liver_that_the_scan_cuts_above_does_not_lie_below_the_kidneys():
    cut = person()
    cut[40:] = 0  # 200 mm: the kidneys' upper end, 40 mm of the liver are left
    cut[38:] = 0
    ct = Volume.from_array(np.zeros((38, *SHAPE[1:]), np.int16), SPACING)
    assert not any("upside down" in doubt for doubt in anatomy_doubts(ct, cut[:38]))


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (((200, 230), (60, 90), (220, 260)), "the liver has 36 mL, outside the 200 to 6000 mL that people have"),
        (((20, 345), (6, 174), (204, 350)), "outside the 200 to 6000 mL that people have"),
    ],
)
def test_a_volume_that_no_person_has_is_doubted(place, told):
    assert any(told in doubt for doubt in doubts(person(liver=place)))


def test_little_of_an_organ_is_not_doubted_where_the_scan_cuts_it():
    below = person(liver=((340, 350), (60, 90), (220, 260)))
    assert not any("liver has" in doubt for doubt in doubts(below))
    padded = np.zeros(SHAPE, np.int16)
    padded[:, :, 65:] = -3024
    beside = person(liver=((200, 230), (60, 90), (220, 260)))
    assert not any("liver has" in doubt for doubt in doubts(beside, padded))


@pytest.mark.parametrize("name", ["pancreas", "gallbladder", "inferior vena cava", "left adrenal gland", "left kidney"])
def test_an_organ_that_is_missing_between_its_neighbours_is_doubted(name):
    (told,) = [d for d in doubts(person(**{name.replace(" ", "_"): None})) if d.startswith(f"no {name} was found")]
    assert told.endswith("removed, outside the field, or missed?")


def test_what_lies_beyond_the_field_is_not_missed():
    pelvis = {o.name.replace(" ", "_"): None for o in ORGANS if o.name not in ("aorta", "inferior vena cava")}
    assert doubts(person(**pelvis)) == ()


@pytest.mark.parametrize("shape_zyx", [(1, 60, 90), (2, 60, 90), (70, 1, 90)])
def test_a_scan_of_one_thin_slice_is_examined_too(shape_zyx):
    labels = np.full(shape_zyx, organ("liver").id, np.uint8)
    found = anatomy_doubts(Volume.from_array(np.zeros(shape_zyx, np.int16), (0.5, 0.6, 0.7)), labels)
    assert not any("none of the 13 organs" in doubt for doubt in found)
