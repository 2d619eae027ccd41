// A window of timesteps of integrate-and-fire neurons, channels last: each potential is read and
// written once a window and stays in a register between. All values are integers that their
// type holds, so the result is exact in any order of additions. `compiled.py` builds, checks and calls this.

#include <cstdint>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr long WIDTH = 16;

template <typename Real> struct Window {
  Real* v;                // [pixels, channels], or null: starts at 0 and is not kept
  Real* emitted;          // [pixels, channels], net spikes so far of `signed`, or null
  const Real* current;    // [steps, pixels, channels], `current_step` values from step to step
  const Real* projected;  // [steps, pixels, channels], or null
  const uint8_t* source;  // [steps, pixels, channels], spikes of an identity shortcut, or null
  const Real* gain;       // [channels], of `source`
  const Real* bias;       // [steps, channels]
  const Real* threshold;  // [channels]
  uint8_t* spikes;        // [steps, pixels, channels]
  int64_t current_step, pixels, channels, steps, max_level, source_is_signed;
};

enum Source { NONE, UNSIGNED, SIGNED };

// `n` <= WIDTH channels of one pixel, in plain loops of the same length that a compiler vectorizes.
template <typename Real, Source source, bool projected, bool is_signed, bool graded>
struct Portable {
  static INLINE void run(const Window<Real>& w, long pixel, long channel, long n) {
    if (n == WIDTH) loops(w, pixel, channel, WIDTH);
    else loops(w, pixel, channel, n);
  }

  static INLINE void loops(const Window<Real>& w, long pixel, long channel, long n) {
    const long plane = w.pixels * w.channels, at = pixel * w.channels + channel;
    const Real top = static_cast<Real>(w.max_level);
    Real v[WIDTH], emitted[WIDTH];
    for (long i = 0; i < n; ++i) v[i] = w.v ? w.v[at + i] : Real(0);
    if (is_signed)
      for (long i = 0; i < n; ++i) emitted[i] = w.emitted[at + i];
    for (long t = 0; t < w.steps; ++t) {
      const Real* current = w.current + t * w.current_step + at;
      const Real* bias = w.bias + t * w.channels + channel;
      const Real* threshold = w.threshold + channel;
      for (long i = 0; i < n; ++i) v[i] += current[i] + bias[i];
      if (projected)
        for (long i = 0; i < n; ++i) v[i] += w.projected[t * plane + at + i];
      if (source == UNSIGNED)
        for (long i = 0; i < n; ++i) v[i] += w.gain[channel + i] * w.source[t * plane + at + i];
      if (source == SIGNED)
        for (long i = 0; i < n; ++i)
          v[i] += w.gain[channel + i] * static_cast<int8_t>(w.source[t * plane + at + i]);
      uint8_t* spikes = w.spikes + t * plane + at;
      for (long i = 0; i < n; ++i) {
        Real level;
        if (graded) {
          level = v[i] / threshold[i];
          level = level > 0 ? level : Real(0);
          level = level < top ? level : top;
          level = static_cast<Real>(static_cast<int32_t>(level));  // the floor: it is >= 0
        } else {
          level = v[i] >= threshold[i] ? Real(1) : Real(0);
        }
        if (is_signed) {
          const Real owed = emitted[i] > 0 ? Real(1) : Real(0);
          level -= v[i] < 0 ? owed : Real(0);
          emitted[i] += level;
        }
        v[i] -= threshold[i] * level;
        spikes[i] = static_cast<uint8_t>(static_cast<int32_t>(level));
      }
    }
    if (w.v)
      for (long i = 0; i < n; ++i) w.v[at + i] = v[i];
    if (is_signed)
      for (long i = 0; i < n; ++i) w.emitted[at + i] = emitted[i];
  }
};

#ifdef AVX512
// The same with each channel's potential in a register.
template <Source source, bool projected, bool is_signed, bool graded> struct Avx512 {
  AVX512 static INLINE void run(const Window<float>& w, long pixel, long channel, long n) {
    const long plane = w.pixels * w.channels;
    long at = pixel * w.channels + channel;
    const __mmask16 lanes = static_cast<__mmask16>((1u << n) - 1);
    const __m512 zero = _mm512_setzero_ps(), top = _mm512_set1_ps(w.max_level);
    const __m512 threshold = _mm512_maskz_loadu_ps(lanes, w.threshold + channel);
    const __m512 gain = source == NONE ? zero : _mm512_maskz_loadu_ps(lanes, w.gain + channel);
    const __m128i one = _mm_set1_epi8(1), minus = _mm_set1_epi8(-1);
    __m512 v = w.v ? _mm512_maskz_loadu_ps(lanes, w.v + at) : zero;
    __m512 emitted = is_signed ? _mm512_maskz_loadu_ps(lanes, w.emitted + at) : zero;
    const float *current = w.current + at, *bias = w.bias + channel;
    const long first = at;
    for (long t = 0; t < w.steps; ++t) {
      __m512 in = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, current),
                                _mm512_maskz_loadu_ps(lanes, bias));
      if (projected) in = _mm512_add_ps(in, _mm512_maskz_loadu_ps(lanes, w.projected + at));
      if (source != NONE) {
        const __m128i s = _mm_maskz_loadu_epi8(lanes, w.source + at);
        const __m512i wide = source == SIGNED ? _mm512_cvtepi8_epi32(s) : _mm512_cvtepu8_epi32(s);
        in = _mm512_add_ps(in, _mm512_mul_ps(gain, _mm512_cvtepi32_ps(wide)));
      }
      v = _mm512_add_ps(v, in);
      if (graded) {
        __m512 level = _mm512_maskz_div_ps(lanes, v, threshold);
        level = _mm512_min_ps(_mm512_max_ps(level, zero), top);
        const __m512i whole = _mm512_cvttps_epi32(level);  // the floor: it is >= 0
        v = _mm512_sub_ps(v, _mm512_mul_ps(threshold, _mm512_cvtepi32_ps(whole)));
        _mm512_mask_cvtepi32_storeu_epi8(w.spikes + at, lanes, whole);
      } else {
        const __mmask16 up = _mm512_cmp_ps_mask(v, threshold, _CMP_GE_OQ);
        __m128i level = _mm_maskz_mov_epi8(up, one);
        if (is_signed) {
          const __mmask16 down = _mm512_cmp_ps_mask(v, zero, _CMP_LT_OQ) &
                                 _mm512_cmp_ps_mask(emitted, zero, _CMP_GT_OQ);
          const __m512 unit = _mm512_set1_ps(1.0f);
          emitted = _mm512_mask_add_ps(emitted, up, emitted, unit);
          emitted = _mm512_mask_sub_ps(emitted, down, emitted, unit);
          v = _mm512_mask_add_ps(v, down, v, threshold);
          level = _mm_mask_mov_epi8(level, down, minus);
        }
        v = _mm512_mask_sub_ps(v, up, v, threshold);
        _mm_mask_storeu_epi8(w.spikes + at, lanes, level);
      }
      at += plane;
      current += w.current_step;
      bias += w.channels;
    }
    if (w.v) _mm512_mask_storeu_ps(w.v + first, lanes, v);
    if (is_signed) _mm512_mask_storeu_ps(w.emitted + first, lanes, emitted);
  }
};
#endif

template <typename Real, Source source, bool projected, bool is_signed, bool graded>
void portable(const Window<Real>& w, long begin, long end) {
  using Vector = Portable<Real, source, projected, is_signed, graded>;
  for (long pixel = begin; pixel < end; ++pixel)
    for (long channel = 0; channel < w.channels; channel += WIDTH) {
      const long left = w.channels - channel;
      Vector::run(w, pixel, channel, left < WIDTH ? left : WIDTH);
    }
}

#ifdef AVX512
// The same loop again: a function for AVX-512 is inlined into no other.
template <typename Vector, typename Real>
AVX512 void avx512(const Window<Real>& w, long begin, long end) {
  for (long pixel = begin; pixel < end; ++pixel)
    for (long channel = 0; channel < w.channels; channel += WIDTH) {
      const long left = w.channels - channel;
      Vector::run(w, pixel, channel, left < WIDTH ? left : WIDTH);
    }
}
#endif

template <typename Real> using Form = void (*)(const Window<Real>&, long, long);

template <typename Real, Source source, bool projected, bool is_signed, bool graded>
Form<Real> form(bool use_avx512) {
#ifdef AVX512
  // Potentials past 2**24 are few: the plain loops, which the compiler vectorizes for AVX-512 too.
  using Plain = Portable<Real, source, projected, is_signed, graded>;
  using Wide = Avx512<source, projected, is_signed, graded>;
  using Vector = std::conditional_t<sizeof(Real) == 4, Wide, Plain>;
  if (use_avx512) return avx512<Vector, Real>;
#endif
  return portable<Real, source, projected, is_signed, graded>;
}

template <typename Real, Source source, bool projected>
Form<Real> kind(const Window<Real>& w, bool use_avx512) {
  if (w.max_level > 1) return form<Real, source, projected, false, true>(use_avx512);
  if (w.emitted) return form<Real, source, projected, true, false>(use_avx512);
  return form<Real, source, projected, false, false>(use_avx512);
}

template <typename Real> Form<Real> choose(const Window<Real>& w, bool use_avx512) {
  if (w.projected) return kind<Real, NONE, true>(w, use_avx512);
  if (!w.source) return kind<Real, NONE, false>(w, use_avx512);
  if (w.source_is_signed) return kind<Real, SIGNED, false>(w, use_avx512);
  return kind<Real, UNSIGNED, false>(w, use_avx512);
}

template <typename Real> void run_parts(const Window<Real>& w, bool use_avx512, int threads) {
  // Shares of at least 2**15 values: a smaller one costs less than a thread's start.
  const long most = w.pixels * w.channels * w.steps >> 15;
  const long parts = most < 1 ? 1 : most < threads ? most : threads;
  const Form<Real> run = choose(w, use_avx512);
#ifdef _OPENMP
#pragma omp parallel for num_threads(static_cast<int>(parts)) schedule(static, 1)
#endif
  for (long part = 0; part < parts; ++part)
    run(w, w.pixels * part / parts, w.pixels * (part + 1) / parts);
}

}  // namespace

// Whether this processor runs the AVX-512 form.
extern "C" int has_avx512() {
#ifdef AVX512
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  return 0;
#endif
}

extern "C" int has_openmp() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

extern "C" void run_float32(const Window<float>* window, int use_avx512, int threads) {
  run_parts(*window, use_avx512, threads);
}

extern "C" void run_float64(const Window<double>* window, int use_avx512, int threads) {
  run_parts(*window, use_avx512, threads);
}
