"""What is said of the device before long work on it."""

import platform
from pathlib import Path

import pytest
import torch

from lib.models import device
from lib.models.device import describe_device, has_bf16_products

CPU = torch.device("cpu")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 names its instructions so")
def test_bf16_products_of_a_cpu_are_those_of_avx512():
    flags = Path("/proc/cpuinfo").read_text().split()
    assert has_bf16_products(CPU) == {"avx512bw", "avx512vl", "avx512dq"}.issubset(flags)


@pytest.mark.parametrize("own", [True, False])
def test_bf16_that_is_emulated_is_said(monkeypatch, own):
    monkeypatch.setattr(device, "has_bf16_products", lambda _: own)
    assert ("several times as long as fp32" in describe_device(CPU, "bf16")) == (not own)
    assert "several times" not in describe_device(CPU, "fp32")
