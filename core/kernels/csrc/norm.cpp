// Batch norm, the addition of a shortcut and ReLU on channels-last maps, one pass forward and one backward. Called through
// ctypes.
//
// A map of n rows (pixels of all images) by C channels is read in rows of the least common multiple of C and kLanes, so that
// every channel count fills the registers. Sums are in float over a block of rows that fits the first-level
// cache, and in double over blocks. The map is cut into parts that depend on its shape alone and are added in order: the
// same bits for any number of threads.
//
// Compiled without contraction to fused multiply-adds, so that the backward pass finds the signs of the forward pass; once
// for each NUMBER (float, double, BFloat16) in use.

#include <numeric>

#include "tables.hpp"

namespace {

enum Activation { kNone, kReLU, kReLU6 };

constexpr int64_t kLanes = kBytes;

template <class A>
struct Held {
  typedef A type __attribute__((vector_size(kBytes), may_alias));
};
template <class A>
using Register = typename Held<A>::type;
using Bits = Register<uint32_t>;

template <class A>
struct Lanes {  // numbers in registers; bfloat16: those at even and at odd positions alternate
  static constexpr int count = sizeof(A);
  Register<A> v[count];
};

template <class V>
inline V loaded(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Bits nearest(Register<float> v) {  // rounds like `put`; the result is in the upper half
  const Bits word = reinterpret_cast<Bits>(v), nan = Bits{} + 0x7fc00000u;
  return (word & 0x7fffffffu) > 0x7f800000u ? nan : (word + 0x7fffu + ((word >> 16) & 1u)) & 0xffff0000u;
}

template <class A, class T>
inline Lanes<A> read(const T* from) {
  Lanes<A> out;
  if constexpr (std::is_same_v<T, BFloat16>) {
    for (int k = 0; k < 4; k += 2) {
      const Bits both = loaded<Bits>(from + k * kBytes / 4);
      out.v[k] = reinterpret_cast<Register<float>>(both << 16);
      out.v[k + 1] = reinterpret_cast<Register<float>>(both & 0xffff0000u);
    }
  } else {
    for (int k = 0; k < Lanes<A>::count; ++k) out.v[k] = loaded<Register<A>>(from + k * (kBytes / sizeof(A)));
  }
  return out;
}

template <class A, class T>
inline void write(T* to, const Lanes<A>& x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    for (int k = 0; k < 4; k += 2) {
      const Bits both = (nearest(x.v[k]) >> 16) | nearest(x.v[k + 1]);
      std::memcpy(to + k * kBytes / 4, &both, sizeof both);
    }
  } else {
    for (int k = 0; k < Lanes<A>::count; ++k) std::memcpy(to + k * (kBytes / sizeof(A)), &x.v[k], kBytes);
  }
}

// The lane of the i-th number of a row.
template <class T>
inline int64_t lane(int64_t i) {
  constexpr int64_t loaded = kBytes / 2;
  return std::is_same_v<T, BFloat16> ? i / loaded * loaded + i % 2 * (loaded / 2) + i % loaded / 2 : i;
}

// The activation; V is a number or a vector. A NaN stays a NaN.
template <int ACT, class V>
inline V activated(V v) {
  const V zero{}, six = zero + 6;
  if constexpr (ACT == kNone) return v;
  if constexpr (ACT == kReLU6) v = v >= six ? six : v;
  return v <= zero ? zero : v;
}

// The gradient through the activation whose input, or output, is `v`.
template <int ACT, class V>
inline V passed(V v, V grad) {
  const V zero{}, six = zero + 6;
  if constexpr (ACT == kNone) return grad;
  if constexpr (ACT == kReLU6) grad = v >= six ? zero : grad;
  return v <= zero ? zero : grad;
}

template <class T, class A>
inline A kept(A v) {  // rounded as when stored
  if constexpr (std::is_same_v<T, BFloat16> && std::is_same_v<A, float>) {
    BFloat16 stored;
    put(stored, v);
    return get(stored);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return reinterpret_cast<A>(nearest(v));
  } else {
    return v;
  }
}

template <class T>
struct Map {
  using A = typename Sum<T>::type;
  int64_t rows, channels, width, wide, rest, parts, block;

  Map(int64_t n, int64_t c) : rows(n), channels(c), width(std::lcm(c, kLanes)) {
    wide = rows * channels / width;
    rest = rows * channels - wide * width;  // numbers after the last whole row
    parts = std::max<int64_t>(1, std::min<int64_t>({32, wide, rows * channels >> 16}));
    block = std::clamp<int64_t>(16384 / static_cast<int64_t>(width * sizeof(T)), 4, 128);
  }
  int64_t begin(int64_t part) const { return wide * part / parts; }
  int64_t end(int64_t part) const { return wide * (part + 1) / parts; }

  // One number per channel, repeated for every lane of a row.
  template <class From>
  std::vector<A> spread(const From* values) const {
    std::vector<A> out(width);
    for (int64_t i = 0; i < width; ++i) out[lane<T>(i)] = static_cast<A>(values[i % channels]);
    return out;
  }
};

// Two sums for each channel, accumulated per lane and part: `terms(at, i, count, first, second)` adds those of the lanes
// from `at`, the i-th of a row, in `count` rows; `term(at, i, first, second)` adds those of a single one.
template <class T, class Terms, class Term>
std::vector<double> sums(const Map<T>& map, int threads, const Terms& terms, const Term& term) {
  using A = typename Sum<T>::type;
  const int64_t width = map.width;
  std::vector<double> all(2 * map.parts * width);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t part = 0; part < map.parts; ++part) {
    double* total = all.data() + 2 * part * width;
    const int64_t end = map.end(part);
    for (int64_t from = map.begin(part); from < end; from += map.block) {
      const int64_t count = std::min(map.block, end - from);
      for (int64_t i = 0; i < width; i += kLanes) {
        Lanes<A> first{}, second{};
        terms(from * width + i, i, count, first, second);
        for (int k = 0; k < Lanes<A>::count; ++k)
          for (int64_t j = 0, n = kBytes / sizeof(A); j < n; ++j)
            total[i + k * n + j] += first.v[k][j], total[width + i + k * n + j] += second.v[k][j];
      }
    }
  }
  double* last = all.data() + 2 * (map.parts - 1) * width;
  for (int64_t i = 0; i < map.rest; ++i) {
    A first{}, second{};
    term(map.wide * width + i, lane<T>(i), first, second);
    last[lane<T>(i)] += first, last[width + lane<T>(i)] += second;
  }
  // sum over parts and lanes, in order
  std::vector<double> found(2 * map.channels);
  for (int64_t part = 0; part < map.parts; ++part)
    for (int64_t which = 0; which < 2; ++which)
      for (int64_t from = 0; from < width; from += map.channels)
        for (int64_t c = 0; c < map.channels; ++c)
          found[which * map.channels + c] += all[(2 * part + which) * width + lane<T>(from + c)];
  return found;
}

// Visits every number of the map: `many(at, i, count)` for the lanes of `count` rows, from the end, since what was read last
// is still in a cache.
template <class T, class Many, class One>
void each(const Map<T>& map, int threads, const Many& many, const One& one) {
  const int64_t width = map.width;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t back = 0; back < map.parts; ++back) {
    const int64_t part = map.parts - 1 - back, first = map.begin(part);
    for (int64_t to = map.end(part); to > first; to -= map.block) {
      const int64_t from = std::max(first, to - map.block);
      for (int64_t i = 0; i < width; i += kLanes) many(from * width + i, i, to - from);
    }
  }
  for (int64_t i = 0; i < map.rest; ++i) one(map.wide * width + i, lane<T>(i));
}

#define LANES for (int k = 0; k < Lanes<A>::count; ++k)

// `about`: for each channel the mean, 1 / standard deviation, and the scale and shift of the whole norm.
template <class T>
void statistics(const Map<T>& map, const T* x, typename Sum<T>::type* about, typename Sum<T>::type* running_mean,
                typename Sum<T>::type* running_var, double momentum, double eps, int threads) {
  using A = typename Sum<T>::type;
  // squares of differences from a value near the mean: their sum does not cancel
  const int64_t looked = std::min<int64_t>(map.rows, 64);
  std::vector<A> near(map.channels);
  for (int64_t row = 0; row < looked; ++row) {
    const T* pixel = x + row * (map.rows / looked) * map.channels;
    for (int64_t c = 0; c < map.channels; ++c) near[c] += get(pixel[c]) / static_cast<A>(looked);
  }
  for (A& value : near) value = std::isfinite(value) ? value : A(0);
  const std::vector<A> shift = map.spread(near.data());
  const std::vector<double> found = sums(
      map, threads,
      [&, width = map.width](int64_t at, int64_t i, int64_t count, Lanes<A>& first, Lanes<A>& second) {
        const Lanes<A> origin = read<A>(shift.data() + i);
        const T* from = x + at;
        for (int64_t row = 0; row < count; ++row, from += width) {
          const Lanes<A> value = read<A>(from);
          LANES {
            const auto d = value.v[k] - origin.v[k];
            first.v[k] += d, second.v[k] += d * d;
          }
        }
      },
      [&](int64_t at, int64_t i, A& first, A& second) {
        const A d = A(get(x[at])) - shift[i];
        first += d, second += d * d;
      });
  const double n = static_cast<double>(map.rows);
  for (int64_t c = 0; c < map.channels; ++c) {
    const double off = found[c] / n, squares = found[map.channels + c] - found[c] * off;
    const double mean = near[c] + off, var = squares < 0 ? 0 : squares / n;
    about[c] = static_cast<A>(mean), about[map.channels + c] = static_cast<A>(1 / std::sqrt(var + eps));
    running_mean[c] = static_cast<A>((1 - momentum) * running_mean[c] + momentum * mean);
    running_var[c] = static_cast<A>((1 - momentum) * running_var[c] + momentum * var * (n / (n - 1)));
  }
}

template <class T, int ACT, bool ADDED>
void forward(const Map<T>& map, const T* x, const T* residual, T* y, const typename Sum<T>::type* about, int threads) {
  using A = typename Sum<T>::type;
  const std::vector<A> scale = map.spread(about + 2 * map.channels), shift = map.spread(about + 3 * map.channels);
  each(
      map, threads,
      [&, width = map.width](int64_t at, int64_t i, int64_t count) {
        const Lanes<A> a = read<A>(scale.data() + i), b = read<A>(shift.data() + i);
        const T *from = x + at, *other = residual + (ADDED ? at : 0);
        T* to = y + at;
        for (int64_t row = 0; row < count; ++row, from += width, to += width) {
          Lanes<A> value = read<A>(from);
          LANES value.v[k] = value.v[k] * a.v[k] + b.v[k];
          if constexpr (ADDED) {
            const Lanes<A> more = read<A>(other);
            LANES value.v[k] += more.v[k];
            other += width;
          }
          LANES value.v[k] = activated<ACT>(value.v[k]);
          write(to, value);
        }
      },
      [&](int64_t at, int64_t i) {
        A value = A(get(x[at])) * scale[i] + shift[i];
        if (ADDED) value += get(residual[at]);
        put(y[at], activated<ACT>(value));
      });
}

template <class T>
struct Gradients {
  using A = typename Sum<T>::type;
  T *x, *residual;
  A *weight, *bias;
};

// With a residual the output `y` shows which values passed the activation, otherwise the input does. The masked gradient is
// the residual's. One pass for the sums, if needed, and one for the gradient of the input.
template <class T, int ACT, bool ADDED>
void backward(const Map<T>& map, const T* x, const T* y, const T* grad, const typename Sum<T>::type* about,
              const Gradients<T>& to, bool training, int threads) {
  using A = typename Sum<T>::type;
  const std::vector<A> mean = map.spread(about), scale = map.spread(about + 2 * map.channels);
  const std::vector<A> shift = map.spread(about + 3 * map.channels);
  // gradients through the activation; `value` is the norm's input, `a` and `b` its scale and shift
  const auto past = [=](int64_t at, const Lanes<A>& value, const Lanes<A>& a, const Lanes<A>& b) {
    Lanes<A> z = read<A>(grad + at), out;
    if constexpr (ACT == kNone) return z;
    if constexpr (ADDED) {
      out = read<A>(y + at);
    } else {
      LANES out.v[k] = value.v[k] * a.v[k] + b.v[k];
      if constexpr (ACT == kReLU6) LANES out.v[k] = kept<T>(out.v[k]);
    }
    LANES z.v[k] = passed<ACT>(out.v[k], z.v[k]);
    return z;
  };
  const auto past_one = [&](int64_t at, int64_t i) {
    const A z = get(grad[at]);
    if constexpr (ACT == kNone) return z;
    if constexpr (ADDED) return passed<ACT>(A(get(y[at])), z);
    const A out = A(get(x[at])) * scale[i] + shift[i];
    return passed<ACT>(ACT == kReLU6 ? kept<T>(out) : out, z);
  };
  const int64_t channels = map.channels;
  std::vector<double> found(2 * channels);
  if (training || to.weight || to.bias) {
    found = sums(
        map, threads,
        [&, masked = to.residual, width = map.width](int64_t at, int64_t i, int64_t count, Lanes<A>& first, Lanes<A>& second) {
          const Lanes<A> a = read<A>(scale.data() + i), b = read<A>(shift.data() + i), centre = read<A>(mean.data() + i);
          Lanes<A> one = first, two = second;
          for (int64_t row = 0; row < count; ++row, at += width) {
            const Lanes<A> value = read<A>(x + at), z = past(at, value, a, b);
            if (ADDED && masked) write(masked + at, z);
            LANES one.v[k] += z.v[k], two.v[k] += z.v[k] * (value.v[k] - centre.v[k]);
          }
          first = one, second = two;
        },
        [&](int64_t at, int64_t i, A& first, A& second) {
          const A z = past_one(at, i);
          if (ADDED && to.residual) put(to.residual[at], z);
          first += z, second += z * (A(get(x[at])) - mean[i]);
        });
  } else if (ADDED && to.residual) {
    each(
        map, threads,
        [&, width = map.width](int64_t at, int64_t i, int64_t count) {
          for (int64_t row = 0; row < count; ++row, at += width) write(to.residual + at, past(at, {}, {}, {}));
        },
        [&](int64_t at, int64_t i) { put(to.residual[at], past_one(at, i)); });
  }
  std::vector<A> slope(channels), offset(channels);
  const double n = static_cast<double>(map.rows);
  for (int64_t c = 0; c < channels; ++c) {
    const double one_over = about[channels + c], factor = about[2 * channels + c];
    if (to.bias) to.bias[c] = static_cast<A>(found[c]);
    if (to.weight) to.weight[c] = static_cast<A>(found[channels + c] * one_over);
    slope[c] = static_cast<A>(training ? -factor * one_over * one_over * found[channels + c] / n : 0);
    offset[c] = static_cast<A>(training ? -factor * found[c] / n : 0);
  }
  if (!to.x) return;
  const std::vector<A> slopes = map.spread(slope.data()), offsets = map.spread(offset.data());
  const T* masked = ADDED ? to.residual : nullptr;
  each(
      map, threads,
      [&, out = to.x, width = map.width](int64_t at, int64_t i, int64_t count) {
        const Lanes<A> a = read<A>(scale.data() + i), b = read<A>(shift.data() + i), centre = read<A>(mean.data() + i);
        const Lanes<A> s = read<A>(slopes.data() + i), o = read<A>(offsets.data() + i);
        for (int64_t row = 0; row < count; ++row, at += width) {
          const Lanes<A> value = read<A>(x + at);
          Lanes<A> z = ADDED && masked ? read<A>(masked + at) : past(at, value, a, b);
          LANES z.v[k] = a.v[k] * z.v[k] + (s.v[k] * (value.v[k] - centre.v[k]) + o.v[k]);
          write(out + at, z);
        }
      },
      [&](int64_t at, int64_t i) {
        const A z = masked ? A(get(masked[at])) : past_one(at, i);
        put(to.x[at], scale[i] * z + (slopes[i] * (A(get(x[at])) - mean[i]) + offsets[i]));
      });
}

}  // namespace

extern "C" {

// (rows, channels) -> y of the same shape. `parameters`: weight, bias, running mean and running variance of the channels;
// `about` receives four numbers a channel for the backward pass. Training uses the map's own statistics and updates the
// running ones. `residual` may be null.
void stillpoint_norm(const void* x, const void* residual, void* y, void* const* parameters, void* about, int64_t rows,
                     int64_t channels, int64_t activation, int64_t training, double momentum, double eps, int64_t threads) {
  using T = NUMBER;
  using A = Sum<T>::type;
  const Map<T> map(rows, channels);
  const auto source = static_cast<const T*>(x);
  const auto weight = static_cast<const A*>(parameters[0]), bias = static_cast<const A*>(parameters[1]);
  const auto running_mean = static_cast<A*>(parameters[2]), running_var = static_cast<A*>(parameters[3]);
  const auto found = static_cast<A*>(about);
  if (training) {
    statistics<T>(map, source, found, running_mean, running_var, momentum, eps, static_cast<int>(threads));
  } else {
    for (int64_t c = 0; c < channels; ++c)
      found[c] = running_mean[c], found[channels + c] = static_cast<A>(1 / std::sqrt(running_var[c] + eps));
  }
  for (int64_t c = 0; c < channels; ++c) {
    const A scale = found[channels + c] * weight[c];
    found[2 * channels + c] = scale, found[3 * channels + c] = static_cast<A>(bias[c] - double(found[c]) * scale);
  }
  const auto run = [&](auto act) {
    const auto to = static_cast<T*>(y);
    if (residual) forward<T, act, true>(map, source, static_cast<const T*>(residual), to, found, static_cast<int>(threads));
    else forward<T, act, false>(map, source, nullptr, to, found, static_cast<int>(threads));
  };
  switch (activation) {
    case kReLU: return run(std::integral_constant<int, kReLU>());
    case kReLU6: return run(std::integral_constant<int, kReLU6>());
    default: return run(std::integral_constant<int, kNone>());
  }
}

// The gradients of x, of the residual, of weight and of bias where they are not null, in `to`. `y` is null without a
// residual.
void stillpoint_norm_backward(const void* x, const void* y, const void* grad, const void* about, void* const* to,
                              int64_t rows, int64_t channels, int64_t activation, int64_t training, int64_t threads) {
  using T = NUMBER;
  using A = Sum<T>::type;
  const Map<T> map(rows, channels);
  const Gradients<T> gradients{static_cast<T*>(to[0]), static_cast<T*>(to[1]), static_cast<A*>(to[2]), static_cast<A*>(to[3])};
  const auto run = [&](auto act, auto output) {
    backward<T, act, output>(map, static_cast<const T*>(x), static_cast<const T*>(y), static_cast<const T*>(grad),
                             static_cast<const A*>(about), gradients, training != 0, static_cast<int>(threads));
  };
  const auto either = [&](auto act) { y ? run(act, std::true_type()) : run(act, std::false_type()); };
  switch (activation) {
    case kReLU: return either(std::integral_constant<int, kReLU>());
    case kReLU6: return either(std::integral_constant<int, kReLU6>());
    default: return either(std::integral_constant<int, kNone>());
  }
}

}  // extern "C"
