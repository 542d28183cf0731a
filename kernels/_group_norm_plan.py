"""How the group norm's Triton kernels cut their work up: functions of the shape alone.

Three ways, in the order of preference:

1. one launch that keeps its part of x (backward: and of dy) in registers and reads memory once;
2. one launch that reads twice, the second time from the L2 cache: a program's part of x is small
   enough that those of all running programs fit there together;
3. two launches of many small programs, if 2. would leave most of the chip idle, or no group fits.

In channels-last order a program's rows start at 16-byte boundaries and are whole 32-byte sectors
where the groups allow it, whatever their size: rows are cut by channel, not by group.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil, lcm

SMS = 132  # of an H100 or H200; an A100 has 108
FULL = 2 * SMS  # programs that occupy such a chip
L2_BYTES = 36 << 20  # of the cache that can be relied upon
LAUNCH = 4.5  # microseconds that a second launch and its partial sums cost
SPLIT_PARTS = 8192  # most partial sums that a program of the second launch holds at once
MEMBERS = 2048  # most pairs of a program's groups and channels, padded


@dataclass(frozen=True)
class Tiling:
    """One way to cut the work up; see the kernels for what the sizes mean."""

    width: int  # channels of a program
    block_c: int  # the same, rounded up to a power of two
    block_l: int  # pixels of one tile
    unroll: int  # rows of pixels that a lane adds up before it accumulates
    warps: int
    span: int  # pixels of a program

    def blocks(self, channels: int) -> int:
        """Programs side by side in the channels."""
        return -(-channels // self.width)


@dataclass(frozen=True)
class Limits:
    """What differs between forward and backward."""

    tensors: int  # that are read at every pixel: x, or x and dy
    kept: int  # elements of one of them that a program can hold in registers
    held: int  # elements of one of them that one thread can hold
    small: int  # warps of a program when two to four programs share a multiprocessor
    large: int  # warps of a program that has one to itself
    nanoseconds: float  # of one multiprocessor for one element
    reread: float  # traffic of two launches over that of one, for tensors larger than the L2 cache


FORWARD = Limits(1, 16384, 64, 8, 32, 0.12, 1.5)
BACKWARD = Limits(2, 8192, 32, 8, 16, 0.26, 1.6)


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


@dataclass(frozen=True)
class Shape:
    """What a plan depends on."""

    channels: int
    groups: int
    pixels: int
    batch: int
    itemsize: int
    last: bool  # channels-last

    @property
    def depth(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def vector(self) -> int:
        """Elements of a 16-byte access."""
        return 16 // self.itemsize

    def widths(self) -> list[int]:
        """Channels that a program may have: whole groups and, if possible, rows of sectors."""
        unit = self.depth
        if self.last and self.channels % self.vector == 0:
            unit = lcm(unit, self.vector)
        least = min(32 // self.itemsize, self.channels) if self.last else unit
        found = [w for w in range(unit, self.channels + 1, unit) if w >= least]
        few = [w for w in found if power_of_two(w) * power_of_two(w // self.depth) <= MEMBERS]
        return few or found[:1]

    def waste(self, width: int) -> float:
        """Work of programs of this width over the least possible, at least 1."""
        blocks = -(-self.channels // width)
        lanes = blocks * power_of_two(width) / self.channels
        row = width * self.itemsize
        sectors = ceil(row / 32) * 32 / row if self.last and width < self.channels else 1.0
        return max(lanes, sectors) * max(FULL / (self.batch * blocks), 1.0)


def _kept(shape: Shape, limits: Limits) -> Tiling | None:
    """The tiling with all pixels of a program in registers, or None if they do not fit."""
    rows = power_of_two(shape.pixels)
    kept = limits.kept
    if limits.tensors > 1 and shape.depth != power_of_two(shape.depth):
        kept //= 2  # finding a channel's group takes registers
    fitting = [w for w in shape.widths() if power_of_two(w) * rows <= kept]
    if not fitting:
        return None
    width = min(fitting, key=lambda w: (shape.waste(w), -w))
    block = power_of_two(width)
    few = shape.batch * -(-shape.channels // width) < FULL
    held = limits.held // 2 if few else limits.held
    warps = min(max(block * rows // (32 * held), min(block * rows // 256, 4), 1), 16)
    unroll = block * rows // (32 * warps * shape.vector) if shape.last else shape.vector
    unroll = min(max(unroll, 1), rows)
    return Tiling(width, block, rows, unroll, warps, shape.pixels)


def _streamed(shape: Shape, limits: Limits) -> Tiling | None:
    """The tiling that reads twice in one launch, or None if two launches are faster."""
    best: tuple[float, Tiling] | None = None
    sharing = 4 if limits.tensors == 1 else 2  # small programs on one multiprocessor
    for width in shape.widths():
        fitting = L2_BYTES / (limits.tensors * width * shape.pixels * shape.itemsize * SMS)
        if fitting < 0.5:
            break
        warps = limits.small if fitting >= sharing else limits.large
        cost = shape.waste(width) * (1.0 if fitting >= sharing else 1.15 if fitting >= 1 else 1.4)
        if best is None or cost <= best[0]:
            best = cost, _tiles(shape, width, warps, shape.pixels)
    if best is None:
        return None
    tiling = best[1]
    programs = shape.batch * tiling.blocks(shape.channels)
    whole = ceil(programs / SMS) * tiling.block_c * shape.pixels * limits.nanoseconds
    elements = shape.batch * shape.channels * shape.pixels
    cached = elements * shape.itemsize * limits.tensors <= L2_BYTES
    split = elements / SMS * limits.nanoseconds * (1.0 if cached else limits.reread)
    return tiling if whole <= split + 1000 * LAUNCH else None


def _tiles(shape: Shape, width: int, warps: int, span: int) -> Tiling:
    """Tiles of 16 elements per thread and tensor."""
    block = power_of_two(width)
    unroll = 16 // shape.vector if shape.last else 1
    rows = max(32 * warps * shape.vector // block, 1) * (16 // shape.vector)
    rows = min(rows, power_of_two(span))
    return Tiling(width, block, rows, min(unroll, rows), warps, span)


def _split(shape: Shape) -> Tiling:
    """The tiling of two launches."""
    width = min(64 if shape.last else 8, power_of_two(shape.channels))
    blocks = -(-shape.channels // width)
    spans = power_of_two(max(ceil(2 * FULL / (shape.batch * blocks)), ceil(shape.pixels / 1024), 2))
    window, _ = windows(shape.channels, shape.groups, width)
    spans = max(min(spans, power_of_two(shape.pixels) // 64, SPLIT_PARTS // window), 1)
    return _tiles(shape, width, 4, -(-shape.pixels // spans))


def windows(channels: int, groups: int, width: int) -> tuple[int, int]:
    """Channels and number of the groups that `width` channels touch at most, as powers of two."""
    depth = channels // groups
    touched = max(
        min(-(-(c + width) // depth), groups) - c // depth for c in range(0, channels, width)
    )
    return power_of_two(touched * depth), power_of_two(touched)


@cache
def tiling(shape: Shape, backward: bool) -> tuple[Tiling, bool]:
    """How a shape is computed, and whether that is in two launches."""
    limits = BACKWARD if backward else FORWARD
    whole = _kept(shape, limits) or _streamed(shape, limits)
    return (whole, False) if whole is not None else (_split(shape), True)
