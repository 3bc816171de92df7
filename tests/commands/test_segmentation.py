"""From CTs to labels and on to numbers: what is saved, printed and refused."""

import nibabel as nib
import numpy as np
import pytest
import torch
from dicoms import SERIES, every, other_series, write_series, zipped
from pydicom import dcmread, uid
from scans import AFFINE, VOXEL_ML, assert_refused, files_in, grey_values, labels_zyx, save, save_labels
from small_nnunet import small_ct, write_results

from flare_lib.ct.files import load_ct, load_label_map, save_ct, save_label_map
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Volume
from flare_lib.inference import nnunet_stage, stages
from flare_lib.inference.coarse_to_fine import Segmentation
from flare_lib.network.nnunet_folder import load_nnunet_folder


def test_labels_are_saved_on_the_cts_own_grid(flare, nets, ct_path, tmp_path):
    target = tmp_path / "labels.nii.gz"
    code, out, err = flare(
        "segment",
        ct_path,
        "-o",
        target,
        "--margin-mm",
        12,
        "--weights-dir",
        "w",
        "--device",
        "cpu",
        "--precision",
        "float32",
    )
    assert code == 0
    assert nets == [("coarse of w in float32", torch.device("cpu"), 12.0)]
    saved = nib.load(target)
    np.testing.assert_array_equal(saved.affine, AFFINE)
    np.testing.assert_array_equal(saved.dataobj, labels_zyx().T[::-1])
    assert out[1].split() == ["liver", f"{6 * VOXEL_ML:.1f}"]
    assert out[-1] == f"{ct_path}: 1.5 s, nets in float32; wrote {target}"
    assert err == ["note: looked everywhere"]
    assert files_in(tmp_path) == ["case_0000.nii.gz", "labels.nii.gz"]


def test_a_reference_gives_dice_scores_of_the_organs_it_has(flare, nets, ct_path, tmp_path):
    reference = labels_zyx()
    reference[1, 3, 3] = 0  # half of the aorta: 2 * 1 / (2 + 1)
    path = save_labels(tmp_path / "reference.nii.gz", reference)
    code, out, _ = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--reference", path)
    assert code == 0
    assert out[0].split() == ["organ", "mL", "Dice", "with", "reference"]
    assert [out[i].split()[-1] for i in (1, 5)] == ["1.000", "0.667"]
    assert out[2].endswith("not in it")
    assert out[14].split() == ["mean", "of", "the", "2", "organs", "in", "it", "0.833"]


def test_a_figure_is_saved_beside_the_labels(flare, nets, ct_path, tmp_path):
    figure = tmp_path / "overlay.png"
    code, out, _ = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--figure", figure)
    assert code == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert out[-1].endswith(f"wrote {tmp_path / 'labels.nii.gz'} and {figure}")


def test_a_series_of_an_archive_is_segmented_and_its_notes_are_told(flare, nets, tmp_path):
    report = every(Modality="SR", SOPClassUID=uid.EnhancedSRStorage, SeriesDescription="Doses")
    other_series(write_series(tmp_path / "ct"), 7, report)
    archive = zipped(other_series(tmp_path / "ct", 8, slices=range(1, 4)), tmp_path / "ct.zip")
    target = tmp_path / "labels.nii.gz"
    assert_refused(flare("segment", archive, "-o", target), "--series must name one")
    code, _, err = flare("segment", archive, "-o", target, "--series", SERIES)
    assert (code, err) == (0, ["note: looked everywhere"])
    assert nib.load(target).shape == (7, 6, 5)


def test_labels_become_a_dicom_seg_where_the_name_says_so(flare, nets, tmp_path):
    write_series(tmp_path / "ct", every(StudyInstanceUID=f"{SERIES}.500"))
    code, out, _ = flare("segment", tmp_path / "ct", "-o", tmp_path / "labels.dcm")
    assert (code, out[-1]) == (0, f"{tmp_path / 'ct'}: 1.5 s, nets in float32; wrote {tmp_path / 'labels.dcm'}")
    ds = dcmread(tmp_path / "labels.dcm")
    organs = [
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in ds.PerFrameFunctionalGroupsSequence
    ]
    assert (ds.Modality, sorted(set(organs))) == ("SEG", [1, 5])


def test_a_dicom_seg_needs_a_dicom_ct(flare, nets, ct_path, tmp_path):
    answer = flare("segment", ct_path, "-o", tmp_path / "labels.dcm")
    assert_refused(answer, "only labels of a DICOM series can be saved as .dcm")
    assert_refused(flare("phantom", tmp_path / "ct.dcm", tmp_path / "l.nii"), "an output must end in .nii or .nii.gz")
    assert (nets, files_in(tmp_path)) == ([], ["case_0000.nii.gz"])


def test_several_cts_need_a_folder_and_have_no_reference(flare, nets, ct_path, tmp_path):
    answer = flare("segment", ct_path, ct_path, "-o", tmp_path / "labels.nii.gz")
    assert_refused(answer, "for 2 CTs, --output must be a folder")
    answer = flare("segment", ct_path, "-o", tmp_path / "out", "--reference", ct_path)
    assert_refused(answer, "--reference, --figure and --series need a single CT and a label file, got the folder")
    answer = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--workers", 2)
    assert_refused(answer, "--workers, --scheduler, --slurm and --dry-run need a folder as --output, got")


def test_a_reference_on_another_grid_is_refused(flare, nets, ct_path, tmp_path):
    moved = AFFINE.copy()
    moved[2, 3] += 3.0
    path = save_labels(tmp_path / "reference.nii.gz", labels_zyx(), moved)
    answer = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--reference", path)
    assert_refused(answer, "must lie on the CT's grid, got a corner 3.0 mm away")
    assert not (tmp_path / "labels.nii.gz").exists()


def test_a_reference_with_other_labels_is_refused(flare, nets, ct_path, tmp_path):
    path = save_labels(tmp_path / "reference.nii.gz", labels_zyx() * 3)
    answer = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--reference", path)
    assert_refused(answer, "must be 0 to 13, got 0 to 15")
    assert not (tmp_path / "labels.nii.gz").exists()


@pytest.mark.parametrize("device", ["gpu", "meta:x", "xpu:7"])
def test_a_device_that_is_not_there_is_refused(flare, nets, ct_path, tmp_path, device):
    answer = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--device", device)
    assert_refused(answer, f"device must be auto or one that torch can use here, got {device} (")


def test_an_nnunet_folder_gives_its_own_labels_with_its_own_names(flare, tmp_path):
    folder, target = write_results(tmp_path / "r"), tmp_path / "labels.nii.gz"
    nib.save(small_ct("mild"), tmp_path / "ct.nii.gz")
    settings = ("--nnunet", folder, "--device", "cpu", "--precision", "float32")
    code, out, err = flare("segment", tmp_path / "ct.nii.gz", "-o", target, *settings)
    assert (code, err) == (0, [])
    labels = np.asarray(nib.load(target).dataobj)
    assert [line.split()[0] for line in out[:5]] == ["organ", "lung_vessels", "rib", "skin", "marrow"]
    voxel_ml = 1.9 * 2.3 * 2.6 / 1000
    assert f"{(labels == 3).sum() * voxel_ml:.1f}" in out[3]
    assert "nets in float32; wrote" in out[-1]
    both = ("segment", tmp_path / "ct.nii.gz", "-o", tmp_path / "one.nii.gz", "--fold", "1", "--reference", target)
    code, out, err = flare(*both, *settings)
    assert (code, err) == (0, [])
    assert out[0].split()[2:] == ["Dice", "with", "reference"]
    assert 0 < float(out[-2].split()[-1]) < 1
    answer = flare("segment", tmp_path / "ct.nii.gz", "-o", target, *settings, "--figure", tmp_path / "a.png")
    assert_refused(answer, "--figure shows FLARE's 13 organs, got a net with other labels: lung_vessels, rib, skin")
    answer = flare("segment", tmp_path / "ct.nii.gz", "-o", tmp_path / "labels.dcm", *settings)
    assert_refused(answer, "a DICOM-SEG holds FLARE's 13 organs, got a net with other labels: lung_vessels, rib, skin")


def test_tiles_are_fitted_to_a_ct_on_request(flare, tmp_path):
    folder, path = write_results(tmp_path / "r"), tmp_path / "ct.nii.gz"
    nib.save(small_ct("mild"), path)
    settings = ("--nnunet", folder, "--device", "cpu", "--precision", "float32")
    labels = {}
    for name, options in {"plain": (), "fitted": ("--fit-tiles",)}.items():
        code, _, err = flare("segment", path, "-o", tmp_path / f"{name}.nii.gz", *settings, *options)
        assert (code, err) == (0, [])
        labels[name] = load_label_map(tmp_path / f"{name}.nii.gz").array_zyx
    stage = nnunet_stage.NnunetStage(load_nnunet_folder(folder), precision="float32")
    for name, cap in (("plain", 1.0), ("fitted", 2.0)):
        expected = nnunet_stage.segment_with_nnunet(load_ct(path), stage, fit_tiles=cap).label_map_zyx
        np.testing.assert_array_equal(labels[name], expected)
    assert (labels["plain"] != labels["fitted"]).any()  # untrained nets see something else in larger tiles
    out = tmp_path / "out"
    code, _, err = flare("segment", path, "-o", out, *settings, "--fit-tiles", "--workers", 0)
    assert (code, err) == (0, [])
    np.testing.assert_array_equal(load_label_map(out / "ct.nii.gz").array_zyx, labels["fitted"])


def test_an_nnunet_can_look_where_the_coarse_net_finds_the_organs(flare, monkeypatch, ct_path, tmp_path):
    asked = {}

    def segment(ct, *, stage, progress, **rest):
        asked.update(rest, folds=len(stage.folds))
        box = Box((0, 0, 0), ct.shape_zyx)
        return Segmentation(labels_zyx() % 5, ct, box, {"net": 1.0}, (), precision={"nnU-Net": "float32"})

    monkeypatch.setattr(nnunet_stage, "segment_with_nnunet", segment)
    monkeypatch.setattr(stages, "load_stages", lambda folder, **_: (f"coarse of {folder}", "fine"))
    folder, target = write_results(tmp_path / "r"), tmp_path / "labels.nii.gz"
    settings = ("--nnunet", folder, "--roi", "--margin-mm", 7, "--weights-dir", "w", "--tile-step", 0.75)
    code, _, err = flare("segment", ct_path, "-o", target, *settings)
    assert code == 0
    assert asked == {"coarse": "coarse of w", "margin_mm": 7.0, "folds": 2, "tile_step": 0.75, "fit_tiles": 1.0}
    assert err == ["note: --roi looks only near FLARE's 13 organs; anything far from them is missed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fold", "0"), "--fold needs --nnunet, got none"),
        (("--roi",), "--roi needs --nnunet, got none"),
        (("--nnunet", "r", "--fast"), "--fast is for the packaged nets or your own in --weights-dir, not for --nnunet"),
        (("--nnunet", "r", "--weights-dir", "w"), "--weights-dir with --nnunet is for the coarse net and needs --roi"),
        (("--nnunet", "nowhere"), "a results folder of nnU-Net must be a folder, got nowhere"),
        (("--engine", "tensorrt"), "engine must be torch or openvino, got tensorrt"),
    ],
)
def test_options_of_nnunet_that_do_not_fit_are_refused(flare, ct_path, tmp_path, options, message):
    assert_refused(flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", *options), message)


def test_measure_prints_and_writes_what_a_label_map_says(flare, tmp_path):
    ct, labels = save(tmp_path / "ct.nii.gz", grey_values()), save_labels(tmp_path / "labels.nii.gz", labels_zyx())
    code, out, _ = flare("measure", ct, labels, "-o", tmp_path / "organs.csv")
    assert code == 0
    assert out[1].split()[:2] == ["liver", f"{6 * VOXEL_ML:.1f}"]
    assert out[-1] == f"2 organs measured; wrote {tmp_path / 'organs.csv'}"
    assert len((tmp_path / "organs.csv").read_text().splitlines()) == 3
    code, _, err = flare("measure", ct, labels, "-o", tmp_path / "organs.txt")
    assert (code, "must be a .csv file" in err[0]) == (2, True)
    other = save_labels(tmp_path / "other.nii.gz", labels_zyx(), np.diag([1.0, 2.0, 3.0, 1.0]))
    code, _, err = flare("measure", ct, other)
    assert (code, "must lie on the CT's grid" in err[0]) == (2, True)


def test_the_only_ct_of_two_channels_is_measured_with_its_labels(flare, tmp_path):
    for folder in ("cts", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("case_0000", "case_0001"):
        save(tmp_path / "cts" / f"{name}.nii.gz", grey_values())
    save_labels(tmp_path / "labels" / "case.nii.gz", labels_zyx())
    code, _, err = flare("measure", tmp_path / "cts", tmp_path / "labels", "-o", tmp_path / "organs.csv")
    assert (code, err) == (2, ["error: case_0001: a case must have a label map named like its CT, got none"])
    rows = (tmp_path / "organs.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["case", "case", "case"]  # the first row names the columns


def test_what_measure_writes_is_there_though_nobody_reads_the_table(flare, tmp_path, monkeypatch):
    ct, labels = save(tmp_path / "ct.nii.gz", grey_values()), save_labels(tmp_path / "labels.nii.gz", labels_zyx())

    def gone(measured):
        raise BrokenPipeError

    monkeypatch.setattr("flare_lib.evaluation.measurements.measurement_table", gone)
    assert flare("measure", ct, labels, "-o", tmp_path / "table.csv")[0] != 0
    assert (tmp_path / "table.csv").read_text().startswith("organ,volume_ml")


def test_measurements_of_a_dicom_series_become_a_report(flare, tmp_path):
    folder = write_series(tmp_path / "série 1", every(StudyInstanceUID="1.2.3"))
    ct = load_ct(folder)
    labels, report = tmp_path / "labels.nii.gz", tmp_path / "report.dcm"
    save_label_map(labels, (np.arange(ct.array_zyx.size).reshape(ct.shape_zyx) % 3).astype(np.uint8), ct)
    code, out, err = flare("measure", folder, labels, "--sr", report)
    assert (code, out[-1], err) == (0, f"2 organs measured; wrote {report}", [])
    assert dcmread(report).Modality == "SR"
    (folder / "all.tar").touch()
    *_, err = flare("measure", folder, labels)
    assert err == ["note: passed over beside the slices: all.tar (of archives, only .zip is read)"]
    assert_refused(flare("measure", folder, labels, "--sr", tmp_path / "r.pdf"), "the report must be a .dcm file, got")
    assert_refused(
        flare("measure", report, labels, "--sr", report), "every output must be a separate file, neither an i"
    )
    assert_refused(flare("measure", folder, tmp_path, "--sr", report), "many CTs are measured into a table, without")
    save_ct(tmp_path / "ct.nii.gz", Volume.from_array(ct.array_zyx, ct.spacing_zyx_mm))
    assert_refused(
        flare("measure", tmp_path / "ct.nii.gz", labels, "--sr", report), "only measurements of a DICOM series can be"
    )
