"""OpenVINO in torch's place: the same logits, for our U-Net alone."""

import gc
import locale
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from flare_lib.machine.extras import MissingExtra
from flare_lib.machine.precision import FLOAT32
from flare_lib.network.engines import check_engine, compile_net
from flare_lib.network.unet import UNet

CPU = torch.device("cpu")
PATCH = (8, 12, 16)


@pytest.fixture
def patch():
    return torch.randn((1, 2, *PATCH), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [True, False])
def test_openvinos_logits_are_torchs(patch, bias):
    torch.manual_seed(0)
    net = UNet(2, 5, (4, 6, 8), ((1, 2, 2), (2, 2, 1)), n_heads=2, up_and_head_bias=bias).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)  # no bias is 0, no scale 1
        expected = net.finest(patch)
    assert expected.std() > 0.5
    for order in (torch.contiguous_format, torch.channels_last_3d):
        answer = compile_net(net.to(memory_format=order), PATCH, FLOAT32)(patch)
        torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)


@pytest.mark.slow("loads torch and OpenVINO in a process of its own")
def test_openvino_reports_to_nobody_and_leaves_nothing_in_the_home(tmp_path):
    code = (
        "import sys\nfrom flare_lib.machine.precision import FLOAT32\n"
        "from flare_lib.network.engines import compile_net\n"
        "from flare_lib.network.unet import UNet\n"
        "compile_net(UNet(2, 3, (4, 6), ((2, 2, 2),), n_heads=1).eval(), (8, 12, 16), FLOAT32)\n"
        "print(sys.modules['openvino.tools.ovc'].telemetry.__module__)\n"
        "print([name for name in sys.modules if 'openvino_telemetry' in name])"
    )
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | home, capture_output=True, text=True, check=True
    )
    assert done.stdout == "openvino.tools.ovc.telemetry_stub\n[]\n"
    assert not list(tmp_path.rglob("*openvino*"))


def test_names_are_compared_in_plain_letters_whatever_the_users_language(monkeypatch):
    before, compared = locale.setlocale(locale.LC_CTYPE), []

    def graph(*_):
        compared.append(locale.setlocale(locale.LC_CTYPE))
        raise RuntimeError('"EXPLICIT" is not a member')  # as OpenVINO says in Turkish

    monkeypatch.setattr("flare_lib.network.engines._graph", graph)
    with pytest.raises(ValueError, match=r'this processor and net, got: "EXPLICIT" is not a member$'):
        compile_net(UNet(2, 3, (4, 6), ((2, 2, 2),), n_heads=1), PATCH, FLOAT32)
    assert compared == ["C"]
    assert locale.setlocale(locale.LC_CTYPE) == before


def test_an_answer_stays_when_the_next_one_is_computed(patch):
    net = UNet(2, 3, (4, 6), ((2, 2, 2),), n_heads=1).eval()
    predict = compile_net(net, PATCH, FLOAT32)
    first = predict(patch)
    kept = first.clone()
    predict(patch.flip(2))
    assert first.equal(kept)


def test_weights_stay_as_long_as_what_was_compiled_of_them(patch):
    def compiled():
        torch.manual_seed(0)
        net = UNet(2, 3, (4, 6), ((2, 2, 2),), n_heads=1).to(torch.bfloat16).eval()  # its weights in float32 are copies
        return compile_net(net, PATCH, FLOAT32)

    predict = compiled()
    before = predict(patch)
    for _ in range(5):
        torch.full((2**16,), torch.nan)  # where freed weights may have been
    gc.collect()
    assert predict(patch).equal(before)
    assert compiled()(patch).equal(before)


def test_for_a_patch_of_another_size_the_net_is_compiled_again(patch, monkeypatch):
    import openvino

    sizes, compiles = [], openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core,
        "compile_model",
        lambda core, model, *how: sizes.append(tuple(model.inputs[0].shape)[2:]) or compiles(core, model, *how),
    )
    torch.manual_seed(0)
    net = UNet(2, 3, (4, 6), ((2, 2, 2),), n_heads=1).eval()
    predict, smaller = compile_net(net, PATCH, FLOAT32), patch[..., :6]
    with torch.no_grad():
        for image in (patch, smaller, smaller, patch):
            torch.testing.assert_close(predict(image), net.finest(image), atol=1e-4, rtol=0)
    assert sizes == [PATCH, (8, 12, 6), PATCH]


def test_a_patch_that_the_net_cannot_compute_is_refused_and_others_still_are_computed(patch):
    predict = compile_net(UNet(2, 3, (4, 6), ((2, 2, 2),), n_heads=1).eval(), PATCH, FLOAT32)
    before = predict(patch).clone()
    with pytest.raises(ValueError, match=r"size ZYX must be a multiple of \(2, 2, 2\), got \(8, 12, 7\)"):
        predict(patch[..., :7])
    with pytest.raises(ValueError, match=r"the shape \(B, 2, Z, Y, X\), got \(1, 1, 8, 12, 16\)"):
        predict(patch[:, :1])
    assert predict(patch).equal(before)


def test_another_net_is_refused():
    with pytest.raises(ValueError, match=r"computes plain U-Nets \(without it: any\), got a Conv3d"):
        compile_net(nn.Conv3d(1, 2, 3), PATCH, FLOAT32)


def test_engines_that_are_not_there_are_refused(monkeypatch):
    check_engine("torch", torch.device("cuda"))
    check_engine("openvino", CPU)
    with pytest.raises(ValueError, match=r"engine must be torch or openvino, got onnx"):
        check_engine("onnx", CPU)
    with pytest.raises(ValueError, match=r"the engine openvino computes on the CPU \(--device cpu\), got cuda"):
        check_engine("openvino", torch.device("cuda"))
    monkeypatch.setattr("flare_lib.machine.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"openvino must be installed \(pip install 'flare-lib\[openvino\]'\)"):
        check_engine("openvino", CPU)


def test_what_openvino_says_is_told_in_one_line_without_where_in_its_source(patch, monkeypatch):
    import openvino

    net = UNet(2, 3, (4, 6), ((2, 2, 2),), n_heads=1).eval()
    said = "Exception from src/core.cpp:117:\nDevice is not registered\n\n"

    class Refusing:
        def compile_model(self, *_):
            raise RuntimeError(said)

    class Full:
        def compile_model(self, *_):
            return self

        def create_infer_request(self):
            return self

        def set_output_tensor(self, _):
            pass

        def infer(self, _, **how):
            raise RuntimeError("Exception from src/infer.cpp:9:\nstd::bad_alloc\n")

    monkeypatch.setattr(openvino, "Core", Refusing)
    with pytest.raises(ValueError, match=r"^OpenVINO must know this processor and net, got: Device is not registered$"):
        compile_net(net, PATCH, FLOAT32)
    monkeypatch.setattr(openvino, "Core", Full)
    predict = compile_net(net, PATCH, FLOAT32)
    with pytest.raises(MemoryError, match=r"^OpenVINO must have memory for a patch of .*, got: std::bad_alloc$"):
        predict(patch)
    monkeypatch.setattr(openvino, "Core", Refusing)
    for _ in range(2):  # a size that it refuses leaves nothing half compiled
        with pytest.raises(ValueError, match=r"got: Device is not registered$"):
            predict(patch[..., :6])
