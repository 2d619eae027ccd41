"""The fused kernels: a spiking layer over all timesteps of a window in one launch.

Packed spikes come in and go out. `launch.py` lays the tensors out, chooses tiles and starts the
kernels. Conventions:

* Packed spikes are uint8 `[S, P, B, H, W, C]`: bit t % 8 of plane t // 8 is timestep t; S = 2 with
  a second set for the -1s. Graded spikes lie side by side in fields of 2, 4 or 8 bits, 8 / field
  timesteps a byte. Input, shortcut and output each have their own: where they differ (MIXED), bytes
  are found for each group of timesteps, else once for all that a byte holds.
* Weights are int8 `[Np, K]`: K runs over (row, column, input channel) and is zero-padded to whole
  blocks of BLOCK_DEPTH; Np = PADDED_CHANNELS is Cout zero-padded to whole blocks of channels, in
  weights and in per-channel values.
* The membrane potential is the accumulator of the matrix product (`v = dot(spikes, weights, v)`),
  so it lives in registers for all timesteps, and currents, membranes and single spikes never reach
  memory. GROUP timesteps share one load of weights: their currents do not depend on the potential,
  so GROUP - 1 of them get accumulators of their own.
* `word` keeps four bytes a neuron in one register over eight timesteps: bits 0-7 the shortcut's +1
  spikes, 8-15 the neuron's own, 16-23 and 24-31 the same for -1. (With a register each, 64 x 128
  tiles spilt 1.3 to 2.4 kB a thread on sm_90.)
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import (
    add_counts,
    add_currents,
    fire,
    first_tap,
    identity_columns,
    output_block,
    output_offsets,
    store_plane,
)


@triton.jit(do_not_specialize=["pixels", "timesteps", "first_timestep"])
def spiking_conv(
    x_ptr,  # packed spikes, uint8 [S, P, B, IN_HEIGHT, IN_WIDTH, IN_CHANNELS]
    weight_ptr,  # int8 [Np, DEPTH_BLOCKS * BLOCK_DEPTH]
    source_ptr,  # packed spikes, uint8 [S, P, B, SOURCE_HEIGHT, SOURCE_WIDTH, SOURCE_CHANNELS]
    projection_ptr,  # int8 [Np, PROJECTION_BLOCKS * BLOCK_DEPTH]
    gain_ptr,  # of an identity shortcut, int32 [Np]
    bias_ptr,  # int32 [BIAS_ROWS, Np]
    threshold_ptr,  # int32 [Np], 1 in the padding
    v_init_ptr,  # int32 [Np]
    v_ptr,  # membrane potentials, int32 [B, OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS], in and out
    emitted_ptr,  # net spikes of `signed`, int32, as v_ptr
    out_ptr,  # packed spikes, uint8 [S, P, B, OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS]
    count_ptr,  # int32 [OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS]
    pixels,  # B * OUT_HEIGHT * OUT_WIDTH
    timesteps,  # of this window
    first_timestep,  # of the run, where this window begins
    BIAS_ROWS: tl.constexpr,
    IN_HEIGHT: tl.constexpr,
    IN_WIDTH: tl.constexpr,
    IN_CHANNELS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    KERNEL_SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DEPTH_BLOCKS: tl.constexpr,
    SHORTCUT: tl.constexpr,  # 0 none, 1 identity, 2 projection
    SOURCE_HEIGHT: tl.constexpr,
    SOURCE_WIDTH: tl.constexpr,
    SOURCE_CHANNELS: tl.constexpr,
    SHORTCUT_STRIDE: tl.constexpr,
    SHORTCUT_PAD: tl.constexpr,  # zero channels on either side of an identity
    PROJECTION_KERNEL: tl.constexpr,
    PROJECTION_PADDING: tl.constexpr,
    PROJECTION_BLOCKS: tl.constexpr,
    INPUT_SIGNED: tl.constexpr,
    SOURCE_SIGNED: tl.constexpr,
    SIGNED: tl.constexpr,
    BITS: tl.constexpr,  # of a spike of its own
    FIELD: tl.constexpr,  # that one takes in a byte: 1, 2, 4 or 8
    INPUT_FIELD: tl.constexpr,  # the same of the input
    SOURCE_FIELD: tl.constexpr,  # the same of the shortcut's source
    FIRST_WINDOW: tl.constexpr,
    SAVE_MEMBRANE: tl.constexpr,
    COUNT_SPIKES: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    GROUP: tl.constexpr,  # timesteps that share a load of weights
    INTERPRETED: tl.constexpr,
):
    """Run a layer over one window.

    A program computes BLOCK_PIXELS pixels x BLOCK_CHANNELS channels.

    FIRST_WINDOW: membranes begin at v_init, else they are read. SAVE_MEMBRANE: they are written at
    the end. COUNT_SPIKES: spikes of each neuron, over the whole batch, are added to count_ptr.
    """
    rows, columns, live, image, out_y, out_x = output_block(
        pixels, OUT_HEIGHT, OUT_WIDTH, PADDED_CHANNELS, BLOCK_PIXELS, BLOCK_CHANNELS
    )
    images = (pixels // (OUT_HEIGHT * OUT_WIDTH)).to(tl.int64)
    planes = (timesteps * FIELD + 7) // 8
    x_planes = (timesteps * INPUT_FIELD + 7) // 8
    source_planes = (timesteps * SOURCE_FIELD + 7) // 8
    EACH: tl.constexpr = 8 // FIELD  # timesteps a byte
    MIXED: tl.constexpr = INPUT_FIELD != FIELD or (SHORTCUT > 0 and SOURCE_FIELD != FIELD)
    y0, x0, x_at = first_tap(image, out_y, out_x, STRIDE, PADDING, IN_HEIGHT, IN_WIDTH, IN_CHANNELS)
    x_plane = images * (IN_HEIGHT * IN_WIDTH * IN_CHANNELS)
    source_y, source_x, source_at = first_tap(
        image,
        out_y,
        out_x,
        SHORTCUT_STRIDE,
        PROJECTION_PADDING,
        SOURCE_HEIGHT,
        SOURCE_WIDTH,
        SOURCE_CHANNELS,
    )
    source_plane = images * (SOURCE_HEIGHT * SOURCE_WIDTH * SOURCE_CHANNELS)
    source_columns, source_mask = identity_columns(live, columns, SHORTCUT_PAD, SOURCE_CHANNELS)
    out_plane = pixels.to(tl.int64) * OUT_CHANNELS
    out_at, out_mask = output_offsets(rows, columns, live, OUT_CHANNELS)
    count_at = (rows % (OUT_HEIGHT * OUT_WIDTH))[:, None] * OUT_CHANNELS + columns[None, :]
    threshold = tl.load(threshold_ptr + columns)[None, :]
    gain = tl.load(gain_ptr + columns)[None, :]
    if FIRST_WINDOW:
        v = tl.full((BLOCK_PIXELS, BLOCK_CHANNELS), 0, tl.int32)
        v += tl.load(v_init_ptr + columns)[None, :]
    else:
        v = tl.load(v_ptr + out_at, mask=out_mask, other=0)
    emitted = v
    if SIGNED:
        emitted = tl.full((BLOCK_PIXELS, BLOCK_CHANNELS), 0, tl.int32)
        if not FIRST_WINDOW:
            emitted += tl.load(emitted_ptr + out_at, mask=out_mask, other=0)

    for plane in range(planes):
        word = tl.full((BLOCK_PIXELS, BLOCK_CHANNELS), 0, tl.int32)
        x = x_ptr + plane * x_plane
        source = source_ptr + plane * source_plane
        groups = EACH // GROUP
        if MIXED:
            # A byte of the input may not hold as many timesteps: there is none past the last.
            groups = tl.minimum(groups, (timesteps - plane * EACH + GROUP - 1) // GROUP)
        elif SHORTCUT == 1:
            at = source_at[:, None] + source_columns[None, :]
            word |= tl.load(source + at, mask=source_mask, other=0).to(tl.int32)
            if SOURCE_SIGNED:
                below = tl.load(source + planes * source_plane + at, mask=source_mask, other=0)
                word |= below.to(tl.int32) << 16
        for group in range(groups):
            shift = group * GROUP * FIELD
            x_shift = shift
            source_shift = shift
            if MIXED:
                first = plane * EACH + group * GROUP
                x = x_ptr + first * INPUT_FIELD // 8 * x_plane
                x_shift = first * INPUT_FIELD % 8
                source = source_ptr + first * SOURCE_FIELD // 8 * source_plane
                source_shift = first * SOURCE_FIELD % 8
                if SHORTCUT == 1:
                    at = source_at[:, None] + source_columns[None, :]
                    word &= -16711936  # 0xff00ff00: without the shortcut's
                    word |= tl.load(source + at, mask=source_mask, other=0).to(tl.int32)
                    if SOURCE_SIGNED:
                        set_below = source + source_planes * source_plane
                        below = tl.load(set_below + at, mask=source_mask, other=0)
                        word |= below.to(tl.int32) << 16
            sums = (v,)
            for _ in tl.static_range(GROUP - 1):
                sums = sums + (tl.full((BLOCK_PIXELS, BLOCK_CHANNELS), 0, tl.int32),)
            sums = add_currents(
                sums,
                x,
                x + x_planes * x_plane,
                weight_ptr,
                x_at,
                y0,
                x0,
                live,
                columns,
                x_shift,
                HEIGHT=IN_HEIGHT,
                WIDTH=IN_WIDTH,
                CHANNELS=IN_CHANNELS,
                KERNEL_SIZE=KERNEL_SIZE,
                DEPTH_BLOCKS=DEPTH_BLOCKS,
                BLOCK_DEPTH=BLOCK_DEPTH,
                GROUP=GROUP,
                BITS=INPUT_FIELD,
                SIGNED=INPUT_SIGNED,
                INTERPRETED=INTERPRETED,
            )
            if SHORTCUT == 2:
                sums = add_currents(
                    sums,
                    source,
                    source + source_planes * source_plane,
                    projection_ptr,
                    source_at,
                    source_y,
                    source_x,
                    live,
                    columns,
                    source_shift,
                    HEIGHT=SOURCE_HEIGHT,
                    WIDTH=SOURCE_WIDTH,
                    CHANNELS=SOURCE_CHANNELS,
                    KERNEL_SIZE=PROJECTION_KERNEL,
                    DEPTH_BLOCKS=PROJECTION_BLOCKS,
                    BLOCK_DEPTH=BLOCK_DEPTH,
                    GROUP=GROUP,
                    BITS=SOURCE_FIELD,
                    SIGNED=SOURCE_SIGNED,
                    INTERPRETED=INTERPRETED,
                )
            for g in tl.static_range(GROUP):
                if g == 0:
                    v = sums[0]
                else:
                    v += sums[g]
                t = plane * EACH + group * GROUP + g
                on = t < timesteps
                bias_row = tl.minimum(first_timestep + t, BIAS_ROWS - 1)
                bias = tl.load(bias_ptr + bias_row * PADDED_CHANNELS + columns)
                v += tl.where(on, bias, 0)[None, :]
                if SHORTCUT == 1:
                    spikes = (word >> (source_shift + g * SOURCE_FIELD)) & (2**SOURCE_FIELD - 1)
                    if SOURCE_SIGNED:
                        spikes -= (word >> (source_shift + g + 16)) & 1
                    v += spikes * gain
                v, word, emitted = fire(
                    v, word, emitted, threshold, on, shift + g * FIELD, BITS, SIGNED
                )
        store_plane(
            out_ptr + plane * out_plane,
            planes * out_plane,
            count_ptr,
            out_at,
            count_at,
            out_mask,
            word,
            SIGNED,
            COUNT_SPIKES,
        )
    if SAVE_MEMBRANE:
        tl.store(v_ptr + out_at, v, mask=out_mask)
        if SIGNED:
            tl.store(emitted_ptr + out_at, emitted, mask=out_mask)


@triton.jit(do_not_specialize=["neurons", "timesteps", "first_timestep"])
def constant_input(
    current_ptr,  # int32 [B, AREA, OUT_CHANNELS]
    bias_ptr,  # int32 [BIAS_ROWS, OUT_CHANNELS]
    threshold_ptr,  # int32 [OUT_CHANNELS]
    v_init_ptr,  # int32 [OUT_CHANNELS]
    v_ptr,  # membrane potentials, int32 [B, AREA, OUT_CHANNELS], in and out
    emitted_ptr,  # net spikes of `signed`, int32, as v_ptr
    out_ptr,  # packed spikes, uint8 [S, P, B, AREA, OUT_CHANNELS]
    count_ptr,  # int32 [AREA, OUT_CHANNELS]
    neurons,  # B * AREA * OUT_CHANNELS
    timesteps,  # of this window
    first_timestep,  # of the run, where this window begins
    BIAS_ROWS: tl.constexpr,
    AREA: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    SIGNED: tl.constexpr,
    BITS: tl.constexpr,  # of a spike
    FIELD: tl.constexpr,  # that one takes in a byte
    FIRST_WINDOW: tl.constexpr,
    SAVE_MEMBRANE: tl.constexpr,
    COUNT_SPIKES: tl.constexpr,
    BLOCK_NEURONS: tl.constexpr,
):
    """Run the stem: neurons that receive the same current at each timestep of a window."""
    index = tl.program_id(0).to(tl.int64) * BLOCK_NEURONS + tl.arange(0, BLOCK_NEURONS)
    mask = index < neurons
    columns = index % OUT_CHANNELS
    count_at = index % (AREA * OUT_CHANNELS)
    planes = (timesteps * FIELD + 7) // 8
    current = tl.load(current_ptr + index, mask=mask, other=0)
    threshold = tl.load(threshold_ptr + columns)
    if FIRST_WINDOW:
        v = tl.load(v_init_ptr + columns)
    else:
        v = tl.load(v_ptr + index, mask=mask, other=0)
    emitted = v
    if SIGNED:
        emitted = tl.full((BLOCK_NEURONS,), 0, tl.int32)
        if not FIRST_WINDOW:
            emitted += tl.load(emitted_ptr + index, mask=mask, other=0)
    for plane in range(planes):
        word = tl.full((BLOCK_NEURONS,), 0, tl.int32)
        for step in range(8 // FIELD):
            t = plane * (8 // FIELD) + step
            on = t < timesteps
            bias_row = tl.minimum(first_timestep + t, BIAS_ROWS - 1)
            bias = tl.load(bias_ptr + bias_row * OUT_CHANNELS + columns)
            v += tl.where(on, current + bias, 0)
            v, word, emitted = fire(v, word, emitted, threshold, on, step * FIELD, BITS, SIGNED)
        store_plane(
            out_ptr + plane * neurons.to(tl.int64),
            planes * neurons.to(tl.int64),
            count_ptr,
            index,
            count_at,
            mask,
            word,
            SIGNED,
            COUNT_SPIKES,
        )
    if SAVE_MEMBRANE:
        tl.store(v_ptr + index, v, mask=mask)
        if SIGNED:
            tl.store(emitted_ptr + index, emitted, mask=mask)


@triton.jit(do_not_specialize=["pixels", "timesteps"])
def layerwise_conv(
    x_ptr,  # spike counts, uint8 [B, IN_HEIGHT, IN_WIDTH, IN_CHANNELS]
    weight_ptr,  # int8 [Np, DEPTH_BLOCKS * BLOCK_DEPTH]
    source_ptr,  # spike counts, uint8 [B, SOURCE_HEIGHT, SOURCE_WIDTH, SOURCE_CHANNELS]
    projection_ptr,  # int8 [Np, PROJECTION_BLOCKS * BLOCK_DEPTH]
    gain_ptr,  # of an identity shortcut, int32 [Np]
    offset_ptr,  # v_init and the bias of all timesteps, int32 [Np]
    threshold_ptr,  # int32 [Np], 1 in the padding
    out_ptr,  # spike counts, uint8 [B, OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS]
    pixels,  # B * OUT_HEIGHT * OUT_WIDTH
    timesteps,  # of the run, at most 127
    IN_HEIGHT: tl.constexpr,
    IN_WIDTH: tl.constexpr,
    IN_CHANNELS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    KERNEL_SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DEPTH_BLOCKS: tl.constexpr,
    SHORTCUT: tl.constexpr,  # 0 none, 1 identity, 2 projection
    SOURCE_HEIGHT: tl.constexpr,
    SOURCE_WIDTH: tl.constexpr,
    SOURCE_CHANNELS: tl.constexpr,
    SHORTCUT_STRIDE: tl.constexpr,
    SHORTCUT_PAD: tl.constexpr,  # zero channels on either side of an identity
    PROJECTION_KERNEL: tl.constexpr,
    PROJECTION_PADDING: tl.constexpr,
    PROJECTION_BLOCKS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """Run a layerwise layer on spike counts, by one convolution for all timesteps.

    A program computes BLOCK_PIXELS pixels x BLOCK_CHANNELS channels.
    """
    rows, columns, live, image, out_y, out_x = output_block(
        pixels, OUT_HEIGHT, OUT_WIDTH, PADDED_CHANNELS, BLOCK_PIXELS, BLOCK_CHANNELS
    )
    y0, x0, x_at = first_tap(image, out_y, out_x, STRIDE, PADDING, IN_HEIGHT, IN_WIDTH, IN_CHANNELS)
    source_y, source_x, source_at = first_tap(
        image,
        out_y,
        out_x,
        SHORTCUT_STRIDE,
        PROJECTION_PADDING,
        SOURCE_HEIGHT,
        SOURCE_WIDTH,
        SOURCE_CHANNELS,
    )
    accumulated = tl.full((BLOCK_PIXELS, BLOCK_CHANNELS), 0, tl.int32)
    accumulated += tl.load(offset_ptr + columns)[None, :]
    accumulated = add_counts(
        accumulated,
        x_ptr,
        weight_ptr,
        x_at,
        y0,
        x0,
        live,
        columns,
        HEIGHT=IN_HEIGHT,
        WIDTH=IN_WIDTH,
        CHANNELS=IN_CHANNELS,
        KERNEL_SIZE=KERNEL_SIZE,
        DEPTH_BLOCKS=DEPTH_BLOCKS,
        BLOCK_DEPTH=BLOCK_DEPTH,
    )
    if SHORTCUT == 1:
        source_columns, mask = identity_columns(live, columns, SHORTCUT_PAD, SOURCE_CHANNELS)
        source = source_ptr + source_at[:, None] + source_columns[None, :]
        counts = tl.load(source, mask=mask, other=0)
        accumulated += counts.to(tl.int32) * tl.load(gain_ptr + columns)[None, :]
    if SHORTCUT == 2:
        accumulated = add_counts(
            accumulated,
            source_ptr,
            projection_ptr,
            source_at,
            source_y,
            source_x,
            live,
            columns,
            HEIGHT=SOURCE_HEIGHT,
            WIDTH=SOURCE_WIDTH,
            CHANNELS=SOURCE_CHANNELS,
            KERNEL_SIZE=PROJECTION_KERNEL,
            DEPTH_BLOCKS=PROJECTION_BLOCKS,
            BLOCK_DEPTH=BLOCK_DEPTH,
        )
    # Not below zero, so that a division that rounds towards zero is the floor.
    threshold = tl.load(threshold_ptr + columns)[None, :]
    count = tl.minimum(tl.maximum(accumulated, 0) // threshold, timesteps)
    out_at, out_mask = output_offsets(rows, columns, live, OUT_CHANNELS)
    tl.store(out_ptr + out_at, count.to(tl.uint8), mask=out_mask)


@triton.jit(do_not_specialize=["images", "timesteps"])
def sum_over_area(
    x_ptr,  # packed spikes, uint8 [S, P, B, AREA, CHANNELS]
    out_ptr,  # int32 [T, B, CHANNELS]
    images,  # B
    timesteps,  # T
    AREA: tl.constexpr,
    CHANNELS: tl.constexpr,
    FIELD: tl.constexpr,  # bits that a spike takes in a byte
    SIGNED: tl.constexpr,
    BLOCK_AREA: tl.constexpr,  # AREA or more
    BLOCK_CHANNELS: tl.constexpr,
):
    """Sum each channel's net spikes over its area at each timestep: the read-out's input."""
    image = tl.program_id(0).to(tl.int64)
    size = images.to(tl.int64) * (AREA * CHANNELS)
    columns = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    area = tl.arange(0, BLOCK_AREA)
    planes = (timesteps * FIELD + 7) // 8
    mask = (area < AREA)[:, None] & (columns < CHANNELS)[None, :]
    for plane in range(planes):
        at = x_ptr + plane * size + image * (AREA * CHANNELS)
        at = at + area[:, None] * CHANNELS + columns[None, :]
        x = tl.load(at, mask=mask, other=0).to(tl.int32)
        if SIGNED:
            below = tl.load(at + planes * size, mask=mask, other=0).to(tl.int32)
        for step in range(8 // FIELD):
            net = (x >> (step * FIELD)) & (2**FIELD - 1)
            if SIGNED:
                net -= (below >> step) & 1
            t = plane * (8 // FIELD) + step
            # tl.sum is compiled with Triton itself, so a kernel that alone is interpreted cannot
            # call it.
            total = tl.reduce(net, 0, tl.standard._sum_combine)
            exists = tl.where(t < timesteps, columns, CHANNELS) < CHANNELS
            tl.store(out_ptr + (t * images + image) * CHANNELS + columns, total, mask=exists)
