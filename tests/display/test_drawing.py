"""What figures are drawn from: outlines along the edges of voxels, a legend that fits its page."""

import numpy as np
import pytest

from flare_lib.display.drawing import legend_layout, organ_borders


def test_outlines_run_along_the_edges_of_voxels_in_the_organs_colour():
    labels = np.zeros((3, 4), np.uint8)
    labels[1, 1:3] = 5
    lines, ids = organ_borders(labels)
    found = {(tuple(map(tuple, line)), int(organ)) for line, organ in zip(lines.tolist(), ids, strict=True)}
    around = [
        ((1, 1), (2, 1)),
        ((2, 1), (3, 1)),
        ((1, 2), (2, 2)),
        ((2, 2), (3, 2)),
        ((1, 1), (1, 2)),
        ((3, 1), (3, 2)),
    ]
    assert found == {(line, 5) for line in around}
    labels[1, 2] = 7
    lines, ids = organ_borders(labels)
    assert sorted(ids.tolist()) == [5] * 3 + [7] * 4
    assert organ_borders(labels * 0)[0].shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("n_organs", "width", "columns", "height"),
    [(0, 11.0, 0, 0.05), (7, 11.0, 7, 0.25), (8, 11.0, 4, 0.45), (13, 6.5, 4, 0.85), (2, 0.8, 1, 0.45)],
)
def test_a_legend_has_the_fewest_lines_that_fit_about_equally_full(n_organs, width, columns, height):
    assert legend_layout(n_organs, width) == (columns, pytest.approx(height))
