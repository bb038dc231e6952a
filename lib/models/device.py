"""The device that a script works on: what it is and can do, and how much of its memory was used."""

import resource

import torch


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16_products(device: torch.device) -> bool:
    """Whether the device multiplies in bf16 itself. Elsewhere PyTorch emulates it: slowly on an older GPU, and on a CPU
    that has AVX2 and no more at a seventh of fp32's rate."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # True of AVX-512 without bf16 too: there oneDNN widens the operands.
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def describe_device(device: torch.device, precision: str) -> str:
    """A line that tells a GPU from a CPU that was not meant (torch falls back to it where the driver is too old), and
    bf16 from one that is emulated."""
    emulated = precision == "bf16" and not has_bf16_products(device)
    slow = "; it has no bf16 products: emulated, bf16 takes several times as long as fp32" if emulated else ""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"device: {device}, {properties.name}, {properties.total_memory / 1e9:.0f} GB{slow}"
    unseen = "" if torch.cuda.is_available() else f"; torch {torch.__version__} finds no GPU"
    return f"device: {device.type}, threads: {torch.get_num_threads()}{unseen}{slow}"


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory of this process so far in GB (10^9 bytes): the device's on a GPU, else the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
