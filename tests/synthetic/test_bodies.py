"""The body completed around a label map."""

import numpy as np
import pytest
from torso import NAMES, torso

from flare_lib.synthetic.bodies import complete_body
from flare_lib.synthetic.structures import UNLABELLED, Structures


def test_a_completed_body_has_its_layers_in_order_and_keeps_its_organs():
    before = torso()
    body = complete_body(before, np.random.default_rng(0))
    wide = [(b - a) // 2 for a, b in zip(before.array_zyx.shape, body.array_zyx.shape, strict=True)]
    inner = tuple(slice(w, w + n) for w, n in zip(wide, before.array_zyx.shape, strict=True))
    labelled = before.array_zyx > 0
    np.testing.assert_array_equal(body.array_zyx[inner][labelled], before.array_zyx[labelled])
    assert wide[0] == 0
    assert all(body.mask(name).any() for name in ("muscle", "fat", "skin", "air", UNLABELLED))
    # walking out of the liver to the right, sideways: the layers come in their order, each in one piece
    row = [body.names[int(i)] for i in body.array_zyx[12, wide[1] + 20, wide[2] + 40 :]]
    layers = [name for k, name in enumerate(row) if k == 0 or row[k - 1] != name]
    order = ["liver", UNLABELLED, "muscle", "fat", "skin", "air"]
    assert [order.index(name) for name in layers] == sorted(order.index(name) for name in layers)
    assert layers[-1] == "air"


def test_a_body_around_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one structure"):
        complete_body(Structures(np.zeros((4, 5, 6), np.uint8), NAMES, (1.0, 1.0, 1.0)), np.random.default_rng(0))
