"""Number formats: what each kind of hardware has of its own, and that the way through the nets bears it."""

import os

import pytest
import torch

from flare_lib.machine.precision import Precision, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


def a_processor(monkeypatch, *, machine="x86_64", onednn=True, bfloat16=False, float16=False):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bfloat16)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: float16)


@pytest.mark.parametrize(
    ("processor", "chosen"),
    [
        ({}, "float32"),
        ({"bfloat16": True}, "bfloat16"),
        ({"bfloat16": True, "float16": True}, "bfloat16"),
        ({"bfloat16": True, "machine": "AMD64"}, "bfloat16"),
        ({"bfloat16": True, "machine": "arm64"}, "float32"),
        ({"bfloat16": True, "onednn": False}, "float32"),
    ],
)
def test_a_processor_computes_in_bfloat16_where_onednn_has_kernels_for_it(monkeypatch, processor, chosen):
    a_processor(monkeypatch, **processor)
    assert choose_precision(device=CPU).name == chosen


@pytest.mark.parametrize(
    ("capability", "chosen"),
    [((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")],
)
def test_a_gpu_computes_in_what_its_capability_has(monkeypatch, capability, chosen):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    precision = choose_precision(device=CUDA)
    assert (precision.name, asked) == (chosen, [CUDA])
    assert f"compute capability {capability[0]}.{capability[1]}" in precision.reason


def test_apples_gpu_computes_in_float16_and_an_unknown_one_in_float32():
    assert choose_precision(device=torch.device("mps")).name == "float16"
    assert choose_precision(device=torch.device("xpu")).name == "float32"


def test_what_is_asked_for_is_taken_where_the_device_has_it(monkeypatch):
    a_processor(monkeypatch, bfloat16=True)
    for name in ("bfloat16", "float32"):
        assert choose_precision(name, device=CPU) == (name, "asked for")
    emulated = Precision("float16", "a test")
    assert choose_precision(emulated, device=CPU) is emulated


@pytest.mark.parametrize("name", ["bfloat16", "float16", "int8", ""])
def test_a_format_that_the_device_does_not_have_is_refused(monkeypatch, name):
    a_processor(monkeypatch)
    message = rf"must be auto or what this cpu computes natively \(float32: oneDNN has no kernels .*\), got {name}$"
    with pytest.raises(ValueError, match=message):
        choose_precision(name, device=CPU)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_a_matrix_product_is_computed_in_the_format(name):
    a = torch.rand(3, 3)
    with Precision(name, "a test").autocast(CPU):
        assert (a @ a).dtype == getattr(torch, name)


@pytest.mark.parametrize(("name", "scales"), [("bfloat16", False), ("float16", True), ("float32", False)])
def test_gradients_are_scaled_in_float16_alone(name, scales):
    assert Precision(name, "a test").grad_scaler(CPU).is_enabled() == scales


def choice(limit):
    """Return the format that is chosen where oneDNN has these instructions, and whether it has kernels of bfloat16."""
    os.environ["ONEDNN_MAX_CPU_ISA"] = limit  # read once in a process, when oneDNN is first asked
    return choose_precision(device=CPU).name, torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.slow("a process of its own")
@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE"])
def test_the_choice_is_that_of_the_instructions_that_onednn_may_use(fresh_processes, limit):
    with fresh_processes(1) as pool:
        chosen, has_kernels = pool.submit(choice, limit).result()
    assert chosen == ("bfloat16" if has_kernels and limit != "AVX2" else "float32")
