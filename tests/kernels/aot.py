"""Compiles recorded launches for a GPU that is not here and reads the result."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctm_fast.kernels._triton import Launch

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}
SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Most shared memory of one block, in bytes."""


@dataclass(frozen=True)
class Binary:
    """One kernel for one architecture."""

    registers: int  # per thread
    local: int  # bytes of local memory and stack per thread; above 0 means spills
    shared: int  # bytes per block
    instructions: Counter[str]  # opcodes with their modifiers, for example LDG.E.128

    def count(self, *words: str) -> int:
        """Instructions whose opcode holds all these dot-separated words."""
        return sum(
            number
            for opcode, number in self.instructions.items()
            if set(words) <= set(opcode.split("."))
        )


def compiled(launch: Launch, arch: int) -> Binary:
    """The launch compiled for compute capability `arch` / 10, as on a machine that has one."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    constants: dict[str, Any] = dict(launch.config.constants)
    runtime = names[: len(launch.args)]
    assert names[len(launch.args) :] == list(constants), (
        f"{launch.kernel.__name__}: constants {list(constants)} do not follow {runtime}"
    )
    signature, attributes = dict.fromkeys(names, "constexpr"), {}
    for i, (name, arg) in enumerate(zip(runtime, launch.args)):
        if arg is None or (type(arg) is int and arg == 1):
            constants[name] = arg
        elif isinstance(arg, torch.Tensor):
            signature[name] = POINTERS[arg.dtype]
            # Storage of a new tensor is aligned; a view is as far as its offset says.
            if arg.storage_offset() * arg.element_size() % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif type(arg) is int:
            signature[name] = "i32" if -(2**31) <= arg < 2**31 else "i64"
            if arg % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.config.num_warps, "num_stages": launch.config.num_stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    usage, code = _dump(kernel.asm["cubin"], "-res-usage"), _dump(kernel.asm["cubin"], "-sass")
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]+)", code)
    return Binary(
        found["REG"], found["STACK"] + found["LOCAL"], kernel.metadata.shared, Counter(opcodes)
    )


def _dump(cubin: bytes, what: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [str(tool), what, file.name], capture_output=True, text=True, check=True
        ).stdout
