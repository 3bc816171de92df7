"""nnU-Net's own predictor on one CT: what `against_nnunet.py` runs, in an environment that has nnunetv2 in it.

    python nnunet_predict.py RESULTS_FOLDER CT.nii.gz LABELS.nii.gz FOLD... [--mirror]

Writes the labels and prints one line of JSON: seconds of wall time and of CPU time, from the CT's file to the labels in
memory, and the largest resident set in MiB. It imports nothing of flare-lib.
"""

import argparse
import json
import os
import resource
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results")
    parser.add_argument("ct")
    parser.add_argument("labels")
    parser.add_argument("folds", nargs="+", type=int)
    parser.add_argument("--mirror", action="store_true", help="with nnU-Net's test-time mirroring")
    chosen = parser.parse_args()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, os.path.dirname(chosen.labels))

    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=chosen.mirror, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(chosen.results, use_folds=tuple(chosen.folds))
    reader = predictor.plans_manager.image_reader_writer_class()
    began, cpu_began = time.perf_counter(), time.process_time()
    image, properties = reader.read_images([chosen.ct])
    labels = predictor.predict_single_npy_array(image, properties)
    measured = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu_began}
    measured["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    reader.write_seg(labels, chosen.labels, properties)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
