"""The fused kernels: a spiking layer over all timesteps of a window in one launch, packed spikes in, packed spikes out.

Nothing here is called directly: `launch.py` lays the tensors out, chooses tiles and starts them. Conventions:

* Packed spikes are uint8 [S, P, B, H, W, C]: bit t % 8 of plane t // 8 is timestep t; S = 2 with a second set for the -1s. Graded
  spikes of BITS bits lie side by side, 8 / BITS timesteps a byte.
* Weights are int8 [Cout, K], K running over (row, column, input channel), zero-padded to whole tiles; per-channel values too.
* The membrane potential is the accumulator of the matrix product (`v = dot(spikes, weights, v)`), so it lives in registers for
  all timesteps, and currents, membranes and single spikes never reach memory. `G` timesteps share one load of weights: their
  currents do not depend on the potential, so G - 1 of them get accumulators of their own.
* `word` keeps four bytes a neuron in one register over eight timesteps: bits 0-7 the shortcut's +1 spikes, 8-15 the neuron's
  own, 16-23 and 24-31 the same for -1. (With a register each, 64 x 128 tiles spilt 1.3 to 2.4 kB a thread on sm_90.)
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _spikes_at(x, below, shift, BITS: tl.constexpr, SIGNED: tl.constexpr, PLAIN: tl.constexpr):
    """Spikes that begin at bit `shift`, int8 in the shape of the packed bytes x (and `below`, the -1s)."""
    if PLAIN:
        spikes = ((x >> shift) & (2**BITS - 1)).to(tl.int8)
        if SIGNED:
            spikes -= ((below >> shift) & 1).to(tl.int8)
        return spikes
    # Four bytes an instruction; the shifts of single bytes that Triton would write take twelve.
    if SIGNED:
        return tl.inline_asm_elementwise(
            """{ .reg .b32 m;
            shr.u32 $0, $1, $3; and.b32 $0, $0, 0x01010101;
            shr.u32 m, $2, $3; and.b32 m, m, 0x01010101; mul.lo.u32 m, m, 255; or.b32 $0, $0, m; }""",
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
def _tile(
    x_ptr,
    at,
    y0,
    x0,
    live,
    k,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    KS: tl.constexpr,
    BK: tl.constexpr,
):
    """Block k of the input as the convolution's matrix sees it, uint8 [BM, BK].

    `at` is the offset of each pixel's first tap, which lies at row y0 and column x0; taps outside the image are zero.
    """
    ks = tl.arange(0, BK)
    if C % BK == 0:
        tap = k // (C // BK)
        r = tap // KS
        s = tap % KS
        inside = live & (y0 + r >= 0) & (y0 + r < H) & (x0 + s >= 0) & (x0 + s < W)
        skip = (r * W + s) * C + k % (C // BK) * BK
        return tl.load(x_ptr + skip + at[:, None] + ks[None, :], mask=inside[:, None], other=0)
    # Few channels: a block spans taps.
    taps = (k * BK + ks) // C
    r = taps // KS
    s = taps % KS
    y = y0[:, None] + r[None, :]
    x = x0[:, None] + s[None, :]
    inside = live[:, None] & (taps < KS * KS)[None, :] & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    skip = (r * W + s) * C + (k * BK + ks) % C
    return tl.load(x_ptr + at[:, None] + skip[None, :], mask=inside, other=0)


@triton.jit
def _add_currents(
    accs,
    x_ptr,
    below_ptr,
    w_ptr,
    at,
    y0,
    x0,
    live,
    cols,
    shift,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    KS: tl.constexpr,
    KB: tl.constexpr,
    BK: tl.constexpr,
    G: tl.constexpr,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Adds the convolution's currents of G timesteps of one plane, from bit `shift` on, to the G accumulators."""
    ks = tl.arange(0, BK)
    row = cols.to(tl.int64) * (KB * BK)
    for k in range(KB):
        x = _tile(x_ptr, at, y0, x0, live, k, H, W, C, KS, BK)
        below = x
        if SIGNED:
            below = _tile(below_ptr, at, y0, x0, live, k, H, W, C, KS, BK)
        w = tl.load(w_ptr + k * BK + row[None, :] + ks[:, None])
        sums = ()
        for g in tl.static_range(G):
            spikes = _spikes_at(x, below, shift + g * BITS, BITS, SIGNED, PLAIN)
            sums = sums + (tl.dot(spikes, w, accs[g], out_dtype=tl.int32),)
        accs = sums
    return accs


@triton.jit
def _fire(v, word, emitted, threshold, on, bit, BITS: tl.constexpr, SIGNED: tl.constexpr):
    """Threshold, soft reset and the spike's bits; nothing fires where `on` is false."""
    if BITS > 1:
        # The quotient's bits from the highest on, which end at 2**BITS - 1 by themselves: no division.
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
def _emit(
    out_ptr, out_set, count_ptr, at, count_at, mask, word, SIGNED: tl.constexpr, COUNT: tl.constexpr
):
    """Stores one plane of spikes, and adds their number to each neuron's count."""
    tl.store(out_ptr + at, (word >> 8).to(tl.uint8), mask=mask)
    if SIGNED:
        tl.store(out_ptr + out_set + at, (word >> 24).to(tl.uint8), mask=mask)
    if COUNT:
        bits = (word >> 8) & 255
        if SIGNED:
            bits |= (word >> 24) & 255
        bits -= (bits >> 1) & 0x55
        bits = (bits & 0x33) + ((bits >> 2) & 0x33)
        tl.atomic_add(count_ptr + count_at, (bits + (bits >> 4)) & 15, mask=mask)


@triton.jit(do_not_specialize=["pixels", "T", "t0"])
def spiking_conv(
    x_ptr,
    w_ptr,
    source_ptr,
    projection_ptr,
    gain_ptr,
    bias_ptr,
    threshold_ptr,
    v_init_ptr,
    v_ptr,
    emitted_ptr,
    out_ptr,
    count_ptr,
    pixels,
    T,
    t0,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    N: tl.constexpr,
    NP: tl.constexpr,
    KS: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    KB: tl.constexpr,
    SHORTCUT: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    SC: tl.constexpr,
    SSTRIDE: tl.constexpr,
    SPAD: tl.constexpr,
    SKB: tl.constexpr,
    XSIGNED: tl.constexpr,
    SSIGNED: tl.constexpr,
    SIGNED: tl.constexpr,
    BITS: tl.constexpr,
    FIRST: tl.constexpr,
    SAVE: tl.constexpr,
    COUNT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    G: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """A layer over T timesteps that begin at timestep t0 of the run; one program is BM output pixels x BN channels.

    SHORTCUT: 0 none, 1 identity (gain, stride SSTRIDE, SPAD zero channels on either side), 2 projection (1x1, SKB blocks of K).
    FIRST: membranes begin at v_init, else they are read; SAVE: they are written at the end. COUNT: spikes per neuron of the
    whole batch are added to count_ptr, int32 [OH, OW, N].
    """
    pid = tl.program_id(0)
    rows = pid // (NP // BN) * BM + tl.arange(0, BM)
    cols = pid % (NP // BN) * BN + tl.arange(0, BN)
    live = rows < pixels
    image = (rows // (OH * OW)).to(tl.int64)
    oh = rows // OW % OH
    ow = rows % OW
    images = (pixels // (OH * OW)).to(tl.int64)
    planes = (T * BITS + 7) // 8
    y0 = oh * STRIDE - PAD
    x0 = ow * STRIDE - PAD
    x_at = image * (H * W * C) + (y0 * W + x0) * C
    x_plane = images * (H * W * C)
    sy = oh * SSTRIDE
    sx = ow * SSTRIDE
    source_at = image * (SH * SW * SC) + (sy * SW + sx) * SC
    source_plane = images * (SH * SW * SC)
    source_cols = cols - SPAD
    source_mask = live[:, None] & ((source_cols >= 0) & (source_cols < SC))[None, :]
    out_plane = pixels.to(tl.int64) * N
    out_at = rows.to(tl.int64)[:, None] * N + cols[None, :]
    out_mask = live[:, None] & (cols < N)[None, :]
    count_at = (rows % (OH * OW))[:, None] * N + cols[None, :]
    threshold = tl.load(threshold_ptr + cols)[None, :]
    gain = tl.load(gain_ptr + cols)[None, :]
    if FIRST:
        v = tl.full((BM, BN), 0, tl.int32) + tl.load(v_init_ptr + cols)[None, :]
    else:
        v = tl.load(v_ptr + out_at, mask=out_mask, other=0)
    emitted = v
    if SIGNED:
        emitted = tl.full((BM, BN), 0, tl.int32)
        if not FIRST:
            emitted += tl.load(emitted_ptr + out_at, mask=out_mask, other=0)

    for plane in range(planes):
        word = tl.full((BM, BN), 0, tl.int32)
        x = x_ptr + plane * x_plane
        source = source_ptr + plane * source_plane
        if SHORTCUT == 1:
            at = source_at[:, None] + source_cols[None, :]
            word |= tl.load(source + at, mask=source_mask, other=0).to(tl.int32)
            if SSIGNED:
                word |= (
                    tl.load(source + planes * source_plane + at, mask=source_mask, other=0).to(
                        tl.int32
                    )
                    << 16
                )
        for group in range(8 // BITS // G):
            shift = group * G * BITS
            accs = (v,)
            for _ in tl.static_range(G - 1):
                accs = accs + (tl.full((BM, BN), 0, tl.int32),)
            accs = _add_currents(
                accs,
                x,
                x + planes * x_plane,
                w_ptr,
                x_at,
                y0,
                x0,
                live,
                cols,
                shift,
                H,
                W,
                C,
                KS,
                KB,
                BK,
                G,
                BITS,
                XSIGNED,
                PLAIN,
            )
            if SHORTCUT == 2:
                accs = _add_currents(
                    accs,
                    source,
                    source + planes * source_plane,
                    projection_ptr,
                    source_at,
                    sy,
                    sx,
                    live,
                    cols,
                    shift,
                    SH,
                    SW,
                    SC,
                    1,
                    SKB,
                    BK,
                    G,
                    BITS,
                    SSIGNED,
                    PLAIN,
                )
            for g in tl.static_range(G):
                if g == 0:
                    v = accs[0]
                else:
                    v += accs[g]
                t = plane * (8 // BITS) + group * G + g
                on = t < T
                bias = tl.load(bias_ptr + tl.minimum(t0 + t, ROWS - 1) * NP + cols)
                v += tl.where(on, bias, 0)[None, :]
                if SHORTCUT == 1:
                    spikes = (word >> (shift + g * BITS)) & (2**BITS - 1)
                    if SSIGNED:
                        spikes -= (word >> (shift + g + 16)) & 1
                    v += spikes * gain
                v, word, emitted = _fire(
                    v, word, emitted, threshold, on, shift + g * BITS, BITS, SIGNED
                )
        _emit(
            out_ptr + plane * out_plane,
            planes * out_plane,
            count_ptr,
            out_at,
            count_at,
            out_mask,
            word,
            SIGNED,
            COUNT,
        )
    if SAVE:
        tl.store(v_ptr + out_at, v, mask=out_mask)
        if SIGNED:
            tl.store(emitted_ptr + out_at, emitted, mask=out_mask)


@triton.jit(do_not_specialize=["neurons", "T", "t0"])
def constant_input(
    current_ptr,
    bias_ptr,
    threshold_ptr,
    v_init_ptr,
    v_ptr,
    emitted_ptr,
    out_ptr,
    count_ptr,
    neurons,
    T,
    t0,
    ROWS: tl.constexpr,
    AREA: tl.constexpr,
    N: tl.constexpr,
    NP: tl.constexpr,
    SIGNED: tl.constexpr,
    BITS: tl.constexpr,
    FIRST: tl.constexpr,
    SAVE: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The stem: neurons [B, AREA, N] that receive the same current, int32, at each of T timesteps."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < neurons
    cols = index % N
    count_at = index % (AREA * N)
    planes = (T * BITS + 7) // 8
    current = tl.load(current_ptr + index, mask=mask, other=0)
    threshold = tl.load(threshold_ptr + cols)
    if FIRST:
        v = tl.load(v_init_ptr + cols)
    else:
        v = tl.load(v_ptr + index, mask=mask, other=0)
    emitted = v
    if SIGNED:
        emitted = tl.full((BLOCK,), 0, tl.int32)
        if not FIRST:
            emitted += tl.load(emitted_ptr + index, mask=mask, other=0)
    for plane in range(planes):
        word = tl.full((BLOCK,), 0, tl.int32)
        for step in range(8 // BITS):
            t = plane * (8 // BITS) + step
            on = t < T
            bias = tl.load(bias_ptr + tl.minimum(t0 + t, ROWS - 1) * NP + cols)
            v += tl.where(on, current + bias, 0)
            v, word, emitted = _fire(v, word, emitted, threshold, on, step * BITS, BITS, SIGNED)
        _emit(
            out_ptr + plane * neurons.to(tl.int64),
            planes * neurons.to(tl.int64),
            count_ptr,
            index,
            count_at,
            mask,
            word,
            SIGNED,
            COUNT,
        )
    if SAVE:
        tl.store(v_ptr + index, v, mask=mask)
        if SIGNED:
            tl.store(emitted_ptr + index, emitted, mask=mask)


@triton.jit(do_not_specialize=["pixels", "T"])
def layerwise_conv(
    x_ptr,
    w_ptr,
    source_ptr,
    projection_ptr,
    gain_ptr,
    given_ptr,
    threshold_ptr,
    out_ptr,
    pixels,
    T,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    N: tl.constexpr,
    NP: tl.constexpr,
    KS: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    KB: tl.constexpr,
    SHORTCUT: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    SC: tl.constexpr,
    SSTRIDE: tl.constexpr,
    SPAD: tl.constexpr,
    SKB: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """A layerwise layer on spike counts: counts of T <= 127 timesteps in and out, uint8 [B, H, W, C], one convolution.

    given: v_init and the bias of all timesteps, int32 [NP].
    """
    pid = tl.program_id(0)
    rows = pid // (NP // BN) * BM + tl.arange(0, BM)
    cols = pid % (NP // BN) * BN + tl.arange(0, BN)
    live = rows < pixels
    image = (rows // (OH * OW)).to(tl.int64)
    oh = rows // OW % OH
    ow = rows % OW
    ks = tl.arange(0, BK)
    y0 = oh * STRIDE - PAD
    x0 = ow * STRIDE - PAD
    x_at = image * (H * W * C) + (y0 * W + x0) * C
    source_at = image * (SH * SW * SC) + (oh * SSTRIDE * SW + ow * SSTRIDE) * SC
    charge = tl.full((BM, BN), 0, tl.int32) + tl.load(given_ptr + cols)[None, :]
    for k in range(KB):
        x = _tile(x_ptr, x_at, y0, x0, live, k, H, W, C, KS, BK).to(tl.int8)
        w = tl.load(w_ptr + k * BK + cols.to(tl.int64)[None, :] * (KB * BK) + ks[:, None])
        charge = tl.dot(x, w, charge, out_dtype=tl.int32)
    if SHORTCUT == 1:
        source_cols = cols - SPAD
        mask = live[:, None] & ((source_cols >= 0) & (source_cols < SC))[None, :]
        counts = tl.load(source_ptr + source_at[:, None] + source_cols[None, :], mask=mask, other=0)
        charge += counts.to(tl.int32) * tl.load(gain_ptr + cols)[None, :]
    if SHORTCUT == 2:
        for k in range(SKB):
            x = _tile(
                source_ptr, source_at, oh * SSTRIDE, ow * SSTRIDE, live, k, SH, SW, SC, 1, BK
            ).to(tl.int8)
            w = tl.load(
                projection_ptr + k * BK + cols.to(tl.int64)[None, :] * (SKB * BK) + ks[:, None]
            )
            charge = tl.dot(x, w, charge, out_dtype=tl.int32)
    # Not below zero, so that a division that rounds towards zero is the floor.
    count = tl.minimum(tl.maximum(charge, 0) // tl.load(threshold_ptr + cols)[None, :], T)
    out_at = rows.to(tl.int64)[:, None] * N + cols[None, :]
    tl.store(out_ptr + out_at, count.to(tl.uint8), mask=live[:, None] & (cols < N)[None, :])


@triton.jit(do_not_specialize=["images", "T"])
def pooled_counts(
    x_ptr,
    out_ptr,
    images,
    T,
    AREA: tl.constexpr,
    C: tl.constexpr,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
    BA: tl.constexpr,
    BC: tl.constexpr,
):
    """Net spikes of each channel summed over its area at each timestep, int32 [T, B, C]; the read-out's input."""
    image = tl.program_id(0).to(tl.int64)
    size = images.to(tl.int64) * (AREA * C)
    cols = tl.program_id(1) * BC + tl.arange(0, BC)
    area = tl.arange(0, BA)
    planes = (T * BITS + 7) // 8
    mask = (area < AREA)[:, None] & (cols < C)[None, :]
    for plane in range(planes):
        at = x_ptr + plane * size + image * (AREA * C) + area[:, None] * C + cols[None, :]
        x = tl.load(at, mask=mask, other=0).to(tl.int32)
        if SIGNED:
            below = tl.load(at + planes * size, mask=mask, other=0).to(tl.int32)
        for step in range(8 // BITS):
            net = (x >> (step * BITS)) & (2**BITS - 1)
            if SIGNED:
                net -= (below >> step) & 1
            t = plane * (8 // BITS) + step
            # tl.sum is compiled with Triton itself, so a kernel that alone is interpreted cannot call it.
            total = tl.reduce(net, 0, tl.standard._sum_combine)
            tl.store(
                out_ptr + (t * images + image) * C + cols, total, mask=tl.where(t < T, cols, C) < C
            )
