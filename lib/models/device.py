"""The device that a script works on: what it is, and how much of its memory was used."""

import resource

import torch


def describe_device(device: torch.device) -> str:
    """A line that tells a GPU from a CPU that was not meant: torch falls back to it where the driver is too old."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"device: {device}, {properties.name}, {properties.total_memory / 1e9:.0f} GB"
    unseen = "" if torch.cuda.is_available() else f"; torch {torch.__version__} finds no GPU"
    return f"device: {device.type}, threads: {torch.get_num_threads()}{unseen}"


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory of this process so far in GB (10^9 bytes): the device's on a GPU, else the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
