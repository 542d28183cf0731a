"""Every launch of every op at the shapes of both U-Nets, compiled for GPUs that are not here."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ctm_fast.kernels import OPS
from ctm_fast.kernels import _triton as triton_file
from ctm_fast.kernels._triton import Launch, recorded
from tests.kernels.aot import SHARED, compiled

pytestmark = [
    pytest.mark.skipif(triton_file.ABSENT is not None, reason=str(triton_file.ABSENT)),
    pytest.mark.skipif(triton_file.INTERPRETED, reason="compiles"),
]
TRITON_OPS = [name for name, op in OPS.items() if op.triton is not None]


def kind(launch: Launch) -> tuple:
    """What a launch is compiled for."""

    def of(arg: object) -> object:
        if isinstance(arg, torch.Tensor):
            return arg.dtype, arg.storage_offset() * arg.element_size() % 16 == 0
        return (arg == 1, arg % 16 == 0) if type(arg) is int else type(arg)

    return launch.kernel, launch.config, *map(of, launch.args)


def shipped(name: str) -> list[Launch]:
    """Launches of one op at all its GPU cases, each kind once."""
    op, found = OPS[name], {}
    for case in op.bench_gpu:
        args, kwargs = op.example(device="meta", **case)
        with recorded() as launches:
            op.launches(*args, **kwargs)
        found |= {kind(launch): launch for launch in launches}
    return list(found.values())


@pytest.mark.parametrize("name", TRITON_OPS)
def test_every_op_ships_launches(name: str) -> None:
    assert shipped(name), f"{name}: no case of bench_gpu reaches Triton"
    # The batch size is in the grid, never in the kernel, so few kernels serve all cases.
    assert len(shipped(name)) < 6 * len(OPS[name].bench_gpu)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", TRITON_OPS)
def test_shipped_launches_fit(name: str, arch: int) -> None:
    launches = shipped(name)
    with ThreadPoolExecutor(2) as pool:
        binaries = list(pool.map(lambda launch: compiled(launch, arch), launches))
    for launch, binary in zip(launches, binaries, strict=True):
        words = f"{launch.kernel.__name__} {launch.config}"
        assert binary.local == 0, f"{words}: {binary.local} bytes of local memory and stack"
        assert binary.shared <= SHARED[arch], f"{words}: {binary.shared} bytes of shared memory"
        threads = 32 * launch.config.num_warps
        assert binary.registers * threads <= 65536, f"{words}: {binary.registers} registers"
