"""The picture on README's and the site's first page: one slice, and the organs in 3-D, as the packaged nets find them.

python benchmarks/first_picture.py CT  # writes assets/organs.png; the one there is of CRLM-CT-1004 (TCIA, CC BY 4.0)
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from flare_lib.ct.files import load_ct
from flare_lib.ct.labels import present_organs
from flare_lib.ct.roi import bounding_box
from flare_lib.ct.volume import Volume
from flare_lib.display.drawing import INK, PAPER, draw_legend, draw_slice
from flare_lib.display.figures import save_figure
from flare_lib.display.slices import organ_center
from flare_lib.display.surfaces import OrganSurfaces
from flare_lib.inference.coarse_to_fine import segment
from flare_lib.inference.stages import load_stages

PICTURE = Path(__file__).parents[1] / "assets" / "organs.png"
ROOM_MM = 45.0


def first_picture(ct: Volume, label_map_zyx: np.ndarray) -> Figure:
    """Return the slice with the most organs beside their surfaces, from the front and from behind, and the legend."""
    figure = Figure(figsize=(12.4, 4.4), facecolor=PAPER, dpi=80)
    slice_axes, *surface_axes = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.15, wspace=0.02)
    z, organs = organ_center(label_map_zyx)[0], bounding_box(label_map_zyx)
    around = organs.widen(ROOM_MM, ct.spacing_zyx_mm, ct.shape_zyx)  # without the scanner's table
    draw_slice(slice_axes, ct.array_zyx, label_map_zyx, ct.spacing_zyx_mm, "axial", z, box=around)
    slice_axes.set_title("one slice", color=INK, fontsize=9)
    surfaces = OrganSurfaces(label_map_zyx, ct.spacing_zyx_mm, pixel_mm=1.0)
    for axes, (title, degrees) in zip(surface_axes, {"from the front": 0, "from behind": 180}.items(), strict=True):
        picture = surfaces.picture(degrees)
        picture[(picture == 255).all(axis=-1)] = int(PAPER[1:3], 16)  # surfaces are drawn on white
        axes.imshow(picture, interpolation="bilinear")
        axes.set_title(title, color=INK, fontsize=9)
        axes.set_axis_off()
    draw_legend(figure, present_organs(label_map_zyx))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path, help="a CT of a whole abdomen")
    ct = load_ct(parser.parse_args().ct)
    result = segment(ct, *load_stages())
    for note in result.notes:
        print("note:", note)
    save_figure(first_picture(ct, result.label_map_zyx), PICTURE)
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
