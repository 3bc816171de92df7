"""What a header says: sizes, types and places; the faults of headers are in tests/faults."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flare_lib.ct.nifti_header import VoxelLayout, file_grid, header_size, read_header, voxel_layout

PATH = Path("ct.nii")


def a_header(header_class=nib.Nifti1Header, byte_order="<", dtype=np.int16, shape=(5, 7, 9)):
    header = header_class(endianness=byte_order)
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["pixdim"][1:4] = 0.75, 1.25, 3.0
    header.set_sform(np.diag([0.75, 1.25, 3.0, 1.0]), 1)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.single_vox_offset
    return header


@pytest.mark.parametrize(("header_class", "size"), [(nib.Nifti1Header, 348), (nib.Nifti2Header, 540)])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_version_and_byte_order_are_told_by_the_headers_own_size(header_class, size, byte_order):
    block = a_header(header_class, byte_order).binaryblock
    assert header_size(block[:348], PATH) == size == len(block)
    read = read_header(block, PATH)
    assert (type(read), read.endianness) == (header_class, byte_order)
    assert read.binaryblock == block


def test_a_byte_order_is_not_guessed_from_the_number_of_axes():
    header = a_header()
    header["dim"][0] = 8  # nibabel takes it for the other byte order
    with pytest.raises(ValueError, match="got a header of 8 axes"):
        voxel_layout(read_header(header.binaryblock, PATH), PATH)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float64])
def test_types_are_nibabels(dtype):
    for byte_order in "<>":
        header = a_header(byte_order=byte_order, dtype=dtype)
        layout = voxel_layout(header, PATH)
        assert layout.dtype == header.get_data_dtype() == np.dtype(dtype).newbyteorder(byte_order)
        assert layout == VoxelLayout(352, (5, 7, 9), layout.dtype, 1.0, 0.0)
        assert layout.size_bytes == 315 * np.dtype(dtype).itemsize


def test_a_size_beyond_64_bits_is_exact():
    layout = VoxelLayout(544, (2**40, 2**40, 2**40), np.dtype("<i2"), 1.0, 0.0)
    assert layout.size_bytes == 2**121


def test_a_grid_is_the_sforms_and_leaves_the_header_as_it_was():
    header = a_header()
    header["pixdim"][0] = 0
    before = header.binaryblock
    grid = file_grid(header, (5, 7, 9), PATH)
    assert header.binaryblock == before
    assert grid.shape_xyz == (5, 7, 9)
    np.testing.assert_array_equal(grid.affine, np.diag([0.75, 1.25, 3.0, 1.0]))
    assert grid.header["pixdim"][:4].tolist() == [1.0, 0.75, 1.25, 3.0]
