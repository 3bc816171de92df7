"""flare_lib: 13 abdominal organs in CT, coarse to fine.

    import flare_lib

    coarse, fine = flare_lib.load_stages()
    ct = flare_lib.load_ct("my_ct.nii.gz")
    result = flare_lib.segment(ct, coarse, fine)
    flare_lib.save_label_map("labels.nii.gz", result.label_map_zyx, ct)

What most programs need can be imported from here, and is loaded on first use: `import flare_lib` by itself loads
nothing. Everything else is in the folders, which are the chapters of the course. Each imports only from those before
it: `machine`, what any program needs from its computer; `ct`, a CT and what is done to it; `network`, what learns;
`synthetic`, people who never existed; `data`, where cases come from; `training`, how the nets learn; `inference`, from
CT to labels; `evaluation`, how good and how fast; `display`, what people look at; `course`, the notebooks as files. On
top are the `commands`, which `cli` puts together as `flare`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flare_lib.ct.files import load_ct, load_label_map, save_label_map
    from flare_lib.ct.volume import Volume
    from flare_lib.evaluation.flare_rules import flare_scores
    from flare_lib.inference.coarse_to_fine import Segmentation, segment
    from flare_lib.inference.postprocess import postprocess
    from flare_lib.inference.slice_interpolation import resize_argmax
    from flare_lib.inference.sliding_window import sliding_window
    from flare_lib.inference.stages import load_stages
    from flare_lib.network.unet import UNet

__version__ = "0.1.0"
__all__ = [
    "Segmentation",
    "UNet",
    "Volume",
    "__version__",
    "flare_scores",
    "load_ct",
    "load_label_map",
    "load_stages",
    "postprocess",
    "resize_argmax",
    "save_label_map",
    "segment",
    "sliding_window",
]
_MODULES = {
    "Segmentation": "inference.coarse_to_fine",
    "UNet": "network.unet",
    "Volume": "ct.volume",
    "flare_scores": "evaluation.flare_rules",
    "load_ct": "ct.files",
    "load_label_map": "ct.files",
    "load_stages": "inference.stages",
    "postprocess": "inference.postprocess",
    "resize_argmax": "inference.slice_interpolation",
    "save_label_map": "ct.files",
    "segment": "inference.coarse_to_fine",
    "sliding_window": "inference.sliding_window",
}


def __getattr__(name: str) -> Any:
    """Load a public name the first time it is used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
