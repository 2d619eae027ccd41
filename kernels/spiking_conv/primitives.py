"""Device functions that the fused kernels share: indices, tiles of the input, currents, firing.

`launch.kernels` loads this file with `kernel.py`, once to be compiled and once to be interpreted.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def output_block(
    pixels,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Return the part of the output that this program owns, of `pixels` pixels (all images).

    Returns:
        rows: output pixels, int32 `[BLOCK_PIXELS]`.
        columns: output channels, int32 `[BLOCK_CHANNELS]`.
        live: whether a pixel exists, `[BLOCK_PIXELS]`.
        image (int64), out_y, out_x: where a pixel lies, `[BLOCK_PIXELS]`.
    """
    program = tl.program_id(0)
    blocks: tl.constexpr = PADDED_CHANNELS // BLOCK_CHANNELS
    rows = program // blocks * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    columns = program % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    live = rows < pixels
    image = (rows // (OUT_HEIGHT * OUT_WIDTH)).to(tl.int64)
    out_y = rows // OUT_WIDTH % OUT_HEIGHT
    out_x = rows % OUT_WIDTH
    return rows, columns, live, image, out_y, out_x


@triton.jit
def first_tap(
    image,
    out_y,
    out_x,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Return row, column and offset of each output pixel's first tap in an input `[B, H, W, C]`."""
    y = out_y * STRIDE - PADDING
    x = out_x * STRIDE - PADDING
    return y, x, image * (HEIGHT * WIDTH * CHANNELS) + (y * WIDTH + x) * CHANNELS


@triton.jit
def identity_columns(
    live,
    columns,
    SHORTCUT_PAD: tl.constexpr,
    SOURCE_CHANNELS: tl.constexpr,
):
    """Return the source's channel that each output channel adds, and the mask of existing ones."""
    columns = columns - SHORTCUT_PAD
    return columns, live[:, None] & ((columns >= 0) & (columns < SOURCE_CHANNELS))[None, :]


@triton.jit
def output_offsets(rows, columns, live, OUT_CHANNELS: tl.constexpr):
    """Return offsets (int64) and mask `[BLOCK_PIXELS, BLOCK_CHANNELS]` in an output."""
    at = rows.to(tl.int64)[:, None] * OUT_CHANNELS + columns[None, :]
    return at, live[:, None] & (columns < OUT_CHANNELS)[None, :]


@triton.jit
def _spikes_at(
    x,
    below,
    shift,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Return the spikes, int8, that begin at bit `shift` of packed bytes x (below: the -1s).

    BITS are those that a spike takes in a byte.
    """
    if BITS == 8:
        return x.to(tl.int8)
    if INTERPRETED:
        spikes = ((x >> shift) & (2**BITS - 1)).to(tl.int8)
        if SIGNED:
            spikes -= ((below >> shift) & 1).to(tl.int8)
        return spikes
    # Four bytes an instruction; the shifts of single bytes that Triton would write take twelve.
    if SIGNED:
        return tl.inline_asm_elementwise(
            """{ .reg .b32 m;
            shr.u32 $0, $1, $3; and.b32 $0, $0, 0x01010101;
            shr.u32 m, $2, $3; and.b32 m, m, 0x01010101;
            mul.lo.u32 m, m, 255; or.b32 $0, $0, m; }""",
            "=&r,r,r,r,r,r,r",
            [x, below, shift],
            dtype=tl.int8,
            is_pure=True,
            pack=4,
        )
    if BITS == 2:
        return tl.inline_asm_elementwise(
            "shr.u32 $0, $1, $2; and.b32 $0, $0, 0x03030303;",
            "=&r,r,r,r,r,r",
            [x, shift],
            dtype=tl.int8,
            is_pure=True,
            pack=4,
        )
    if BITS == 4:
        return tl.inline_asm_elementwise(
            "shr.u32 $0, $1, $2; and.b32 $0, $0, 0x0f0f0f0f;",
            "=&r,r,r,r,r,r",
            [x, shift],
            dtype=tl.int8,
            is_pure=True,
            pack=4,
        )
    return tl.inline_asm_elementwise(
        "shr.u32 $0, $1, $2; and.b32 $0, $0, 0x01010101;",
        "=&r,r,r,r,r,r",
        [x, shift],
        dtype=tl.int8,
        is_pure=True,
        pack=4,
    )


@triton.jit
def _input_tile(
    x_ptr,
    at,
    y0,
    x0,
    live,
    k,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    KERNEL_SIZE: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """Load block k of the input as the convolution's matrix, uint8 `[BLOCK_PIXELS, BLOCK_DEPTH]`.

    `at` is the offset of each pixel's first tap, which lies at row y0 and column x0; taps outside
    the image are zero.
    """
    depths = tl.arange(0, BLOCK_DEPTH)
    if CHANNELS % BLOCK_DEPTH == 0:
        tap = k // (CHANNELS // BLOCK_DEPTH)
        r = tap // KERNEL_SIZE
        s = tap % KERNEL_SIZE
        inside = live & (y0 + r >= 0) & (y0 + r < HEIGHT) & (x0 + s >= 0) & (x0 + s < WIDTH)
        skip = (r * WIDTH + s) * CHANNELS + k % (CHANNELS // BLOCK_DEPTH) * BLOCK_DEPTH
        return tl.load(x_ptr + skip + at[:, None] + depths[None, :], mask=inside[:, None], other=0)
    # Few channels: a block spans taps.
    taps = (k * BLOCK_DEPTH + depths) // CHANNELS
    r = taps // KERNEL_SIZE
    s = taps % KERNEL_SIZE
    y = y0[:, None] + r[None, :]
    x = x0[:, None] + s[None, :]
    kernel_taps: tl.constexpr = KERNEL_SIZE * KERNEL_SIZE
    inside = live[:, None] & (taps < kernel_taps)[None, :]
    inside = inside & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    skip = (r * WIDTH + s) * CHANNELS + (k * BLOCK_DEPTH + depths) % CHANNELS
    return tl.load(x_ptr + at[:, None] + skip[None, :], mask=inside, other=0)


@triton.jit
def add_currents(
    sums,
    x_ptr,
    below_ptr,
    weight_ptr,
    at,
    y0,
    x0,
    live,
    columns,
    shift,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    KERNEL_SIZE: tl.constexpr,
    DEPTH_BLOCKS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Return the GROUP accumulators plus the currents of as many timesteps, from bit `shift` on.

    BITS are those that a spike of the input takes in a byte.
    """
    depths = tl.arange(0, BLOCK_DEPTH)
    row = columns.to(tl.int64) * (DEPTH_BLOCKS * BLOCK_DEPTH)
    for k in range(DEPTH_BLOCKS):
        x = _input_tile(
            x_ptr, at, y0, x0, live, k, HEIGHT, WIDTH, CHANNELS, KERNEL_SIZE, BLOCK_DEPTH
        )
        below = x
        if SIGNED:
            below = _input_tile(
                below_ptr, at, y0, x0, live, k, HEIGHT, WIDTH, CHANNELS, KERNEL_SIZE, BLOCK_DEPTH
            )
        weight = tl.load(weight_ptr + k * BLOCK_DEPTH + row[None, :] + depths[:, None])
        added = ()
        for g in tl.static_range(GROUP):
            spikes = _spikes_at(x, below, shift + g * BITS, BITS, SIGNED, INTERPRETED)
            added = added + (tl.dot(spikes, weight, sums[g], out_dtype=tl.int32),)
        sums = added
    return sums


@triton.jit
def add_counts(
    total,
    x_ptr,
    weight_ptr,
    at,
    y0,
    x0,
    live,
    columns,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    KERNEL_SIZE: tl.constexpr,
    DEPTH_BLOCKS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """Return `total` plus the convolution of spike counts, uint8 up to 127."""
    depths = tl.arange(0, BLOCK_DEPTH)
    row = columns.to(tl.int64) * (DEPTH_BLOCKS * BLOCK_DEPTH)
    for k in range(DEPTH_BLOCKS):
        x = _input_tile(
            x_ptr, at, y0, x0, live, k, HEIGHT, WIDTH, CHANNELS, KERNEL_SIZE, BLOCK_DEPTH
        )
        weight = tl.load(weight_ptr + k * BLOCK_DEPTH + row[None, :] + depths[:, None])
        total = tl.dot(x.to(tl.int8), weight, total, out_dtype=tl.int32)
    return total


@triton.jit
def fire(
    v,
    word,
    emitted,
    threshold,
    on,
    bit,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    """Return v after the soft reset, `word` with the spike's bits and the net spikes emitted.

    Nothing fires where `on` is false.
    """
    if BITS > 1:
        # The quotient's bits from the highest on, which end at 2**BITS - 1 by themselves: no
        # division.
        for i in tl.static_range(BITS):
            weight = threshold << (BITS - 1 - i)
            up = (v >= weight) & on
            v -= tl.where(up, weight, 0)
            word |= tl.where(up, 256 << (bit + BITS - 1 - i), 0)
        return v, word, emitted
    up = (v >= threshold) & on
    change = tl.where(up, threshold, 0)
    word |= tl.where(up, 256 << bit, 0)
    if SIGNED:
        down = (v < 0) & (emitted > 0) & on
        change -= tl.where(down, threshold, 0)
        word |= tl.where(down, 16777216 << bit, 0)
        emitted += up.to(tl.int32) - down.to(tl.int32)
    return v - change, word, emitted


@triton.jit
def store_plane(
    out_ptr,
    negative_set,
    count_ptr,
    at,
    count_at,
    mask,
    word,
    SIGNED: tl.constexpr,
    COUNT_SPIKES: tl.constexpr,
):
    """Store one plane of spikes, and add their number to each neuron's count.

    The -1s go to the set that begins `negative_set` bytes behind out_ptr.
    """
    tl.store(out_ptr + at, (word >> 8).to(tl.uint8), mask=mask)
    if SIGNED:
        tl.store(out_ptr + negative_set + at, (word >> 24).to(tl.uint8), mask=mask)
    if COUNT_SPIKES:
        bits = (word >> 8) & 255
        if SIGNED:
            bits |= (word >> 24) & 255
        bits -= (bits >> 1) & 0x55
        bits = (bits & 0x33) + ((bits >> 2) & 0x33)
        # Nothing is read after it: acquire and release would only order what needs no order.
        number = (bits + (bits >> 4)) & 15
        tl.atomic_add(count_ptr + count_at, number, mask=mask, sem="relaxed")
