"""A person of ellipsoids, whose organs can be moved and reshaped; every axis and spacing different."""

import numpy as np

from flare_lib.synthetic.structures import Structures

SPACING = (6.0, 5.0, 4.0)
SHAPE = (32, 44, 60)
# centre and half axes in mm, z y x
BODY = {
    "liver": ((100, 120, 60), (55, 50, 40)),
    "spleen": ((120, 80, 190), (30, 25, 22)),
    "kidney_right": ((70, 50, 80), (30, 22, 20)),
    "kidney_left": ((75, 45, 160), (30, 22, 20)),
    "stomach": ((120, 160, 150), (35, 25, 35)),
    "vertebrae_L1": ((90, 40, 120), (25, 22, 20)),
    "aorta": ((95, 85, 125), (80, 9, 9)),
}
QUICK = {"spacing_mm": 8.0, "margin_mm": 16.0, "control_mm": (80.0, 40.0), "n_steps": 16}


def person(**changes):
    """A person of ellipsoids; `changes` {structure: (centre, half axes)}."""
    names = {0: "air"} | {i: name for i, name in enumerate(BODY, start=1)}
    at = np.stack(
        np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"), -1
    )
    array = np.zeros(SHAPE, np.uint8)
    for i, name in enumerate(BODY, start=1):
        center, half = (BODY | changes)[name]
        array[(((at - center) / half) ** 2).sum(-1) < 1] = i
    return Structures(array, names, SPACING)


def dice(a, b, name):
    a, b = a.mask(name), b.mask(name)
    return 2 * (a & b).sum() / (a.sum() + b.sum())
