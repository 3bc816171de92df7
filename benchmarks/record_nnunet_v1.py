"""What nnU-Net v1 itself writes and finds: the small model of `small_nnunet` saved by its trainer, and its labels.

    python benchmarks/record_nnunet_v1.py ANSWERS.npz [RESULTS_FOLDER]

It needs an environment with nnunet 1.7.1 beside flare-lib. What that asks of SciPy and has since been moved is put back
first. Its test-time mirroring is left out, as it is here.
"""

import importlib
import os
import pickle
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import scipy.ndimage
from small_nnunet import information_v1, small_ct, small_net, weights_v1

FOLDS = (0, 1)


def trainer_in(folder: Path, fold: int):
    """Return nnU-Net's own trainer with the weights of a small net, its checkpoint saved."""
    from nnunet.training.network_training.nnUNetTrainerV2 import nnUNetTrainerV2

    plans = folder / "plans.pkl"
    plans.write_bytes(pickle.dumps(information_v1()["plans"]))
    trainer = nnUNetTrainerV2(str(plans), fold, str(folder), str(folder / "data"), True, 0)
    trainer.load_plans_file()
    trainer.process_plans(trainer.plans)
    trainer.initialize_network()
    trainer.initialize_optimizer_and_scheduler()
    trainer.network.load_state_dict(weights_v1(small_net(fold, version=1)))
    trainer.network.eval()
    trainer.network.do_ds = False
    (folder / f"fold_{fold}").mkdir()
    trainer.all_tr_losses = [np.float64(-0.5)]
    trainer.save_checkpoint(str(folder / f"fold_{fold}" / "model_final_checkpoint.model"))
    return trainer


def labels_of(trainers: list, ct: nib.Nifti1Image) -> np.ndarray:
    """Return the labels that nnU-Net's trainers give a CT, along the axes of its file."""
    from nnunet.inference.segmentation_export import save_segmentation_nifti_from_softmax

    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "ct_0000.nii.gz", Path(place) / "labels.nii.gz"
        nib.save(ct, source)
        data, _, properties = trainers[0].preprocess_patient([str(source)])
        how = {
            "do_mirroring": False,
            "mirror_axes": (0, 1, 2),
            "use_sliding_window": True,
            "step_size": 0.5,
            "use_gaussian": True,
        }
        how |= {"all_in_gpu": False, "mixed_precision": False, "pad_kwargs": {"constant_values": 0}}
        found = [trainer.predict_preprocessed_data_return_seg_and_softmax(data, **how)[1] for trainer in trainers]
        softmax = np.mean(found, axis=0).transpose([0, *(axis + 1 for axis in trainers[0].transpose_backward)])
        save_segmentation_nifti_from_softmax(softmax, str(target), properties, 1)
        return np.asarray(nib.load(target).dataobj).astype(np.uint8)


def main(answers: str, results: str | None = None) -> None:
    """Write the answers, and the results folder if it is asked for."""
    for moved in ("filters", "interpolation", "morphology", "measurements"):
        sys.modules.setdefault(f"scipy.ndimage.{moved}", scipy.ndimage)
    sys.modules.setdefault("skimage.morphology.binary", importlib.import_module("skimage.morphology"))
    for place in ("nnUNet_raw_data_base", "nnUNet_preprocessed", "RESULTS_FOLDER"):
        os.environ.setdefault(place, tempfile.mkdtemp())
    folder = Path(results or Path(tempfile.mkdtemp()) / "results")
    folder.mkdir()
    trainers = [trainer_in(folder, fold) for fold in FOLDS]
    np.savez_compressed(answers, **{kind: labels_of(trainers, small_ct(kind)) for kind in ("mild", "thick")})


if __name__ == "__main__":
    main(*sys.argv[1:])
