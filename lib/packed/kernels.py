"""The passes of kernels.cpp, compiled on first use for this processor and kept in `.cache`. Where that cannot be done
`suits` says no, and everything is PyTorch's."""

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lib.paths import CACHE_DIR, atomic_file

SOURCE, HEADER = (Path(__file__).with_name(f"kernels.{kind}") for kind in ("cpp", "h"))
# Without -ffast-math, which would change how the whole process rounds to 0.
FLAGS = ["-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512"]
# OpenMP's library is PyTorch's own, which is loaded already under the same name: one pool of threads.
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
# The arguments of each function before the number of threads: tensor, whole number, floating-point number.
ARGUMENTS = {
    "rms_norm": "ttttiiff",
    "rms_norm_backward": "tttttiif",
    "gate": "tttii",
    "gate_backward": "tttttii",
    "drop": "ttiiifi",
    "rotate": "ttttiiiii",
    "masked_softmax": "ttiiiif",
    "softmax_backward": "ttiif",
    "add_exponentials": "ttttii",
}
KINDS = {"t": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}


def suits(*tensors: Tensor) -> bool:
    """Whether the kernels take these: of one type, fp32 or bf16, on a CPU, and the kernels are there."""
    first = tensors[0]
    usual = first.device.type == "cpu" and first.dtype in TYPES and first.numel() > 0
    return usual and all(tensor.dtype == first.dtype for tensor in tensors) and _functions() is not None


def run(name: str, *arguments: Tensor | int | float) -> None:
    """Call a function of `ARGUMENTS`; the type is the first tensor's, and all tensors have to be contiguous."""
    function = _functions()[name, arguments[0].dtype]
    given = (value.data_ptr() if isinstance(value, Tensor) else value for value in arguments)
    function(*given, torch.get_num_threads())


@cache
def _functions() -> dict | None:
    """The compiled functions by name and type, None where no compiler makes them."""
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"note: {SOURCE.name} is not compiled ({error}); PyTorch's own passes take more time", file=sys.stderr)
        return None
    functions = {}
    for name, arguments in ARGUMENTS.items():
        for dtype, suffix in TYPES.items():
            function = functions[name, dtype] = getattr(library, f"{name}_{suffix}")
            function.argtypes, function.restype = [KINDS[kind] for kind in arguments + "i"], None
    return functions


def _compiled() -> Path:
    """The shared library. Its name says source, command, and the processor that it was compiled for."""
    command = [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS]
    code = SOURCE.read_bytes() + HEADER.read_bytes()
    key = hashlib.sha256(code + " ".join([*command, _processor()]).encode()).hexdigest()[:16]
    path = CACHE_DIR / "kernels" / f"{key}.so"
    if not path.exists():
        with atomic_file(path) as temporary:
            subprocess.run([*command, str(SOURCE), "-o", str(temporary)], capture_output=True, check=True)
    return path


def _processor() -> str:
    """What this processor can do, as far as it is told."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return platform.machine()
