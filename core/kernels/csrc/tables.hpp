// Which inputs contribute to which outputs of an axis by which taps, and how numbers are read and written.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace {

using std::int64_t;

struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct Sum {  // the type in which values of type T are summed
  using type = T;
};
template <>
struct Sum<BFloat16> {
  using type = float;
};

inline float get(float v) { return v; }
inline double get(double v) { return v; }
inline float get(BFloat16 v) {
  const uint32_t word = static_cast<uint32_t>(v.bits) << 16;
  float out;
  std::memcpy(&out, &word, sizeof out);
  return out;
}

inline void put(float& to, float v) { to = v; }
inline void put(double& to, double v) { to = v; }
inline void put(BFloat16& to, float v) {  // rounds to nearest, ties to even; a NaN stays a NaN
  uint32_t word;
  std::memcpy(&word, &v, sizeof word);
  const uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>((word & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// Bytes of a register of this processor: compilers keep wider vectors in memory.
#if defined(__AVX512F__)
constexpr int64_t kBytes = 64;
#elif defined(__AVX__)
constexpr int64_t kBytes = 32;
#else
constexpr int64_t kBytes = 16;
#endif

// As many numbers as a register holds, at any alignment.
template <class A>
struct Wide {
  typedef A type __attribute__((vector_size(kBytes), aligned(alignof(A)), may_alias));
};
template <class A>
using Vector = typename Wide<A>::type;

// One register of bfloat16 as two of float: the even numbers and the odd ones, so that neither reading nor writing shuffles.
struct Pair {
  Vector<float> even, odd;
};
inline Pair operator*(float weight, const Pair& v) { return {weight * v.even, weight * v.odd}; }
inline Pair& operator+=(Pair& sum, const Pair& v) { return sum.even += v.even, sum.odd += v.odd, sum; }

// The type for computing on many numbers of type T at a time, and how many.
template <class T>
struct Many {
  using type = Vector<T>;
  static constexpr int64_t count = kBytes / sizeof(T);
};
template <>
struct Many<BFloat16> {
  using type = Pair;
  static constexpr int64_t count = kBytes / 2;
};

typedef uint32_t Words __attribute__((vector_size(kBytes), aligned(2), may_alias));

// Reads one number or many, of type From in memory, as V for sums. A Pair of sums is stored as two vectors.
template <class V, class From>
inline V load(const From* from) {
  if constexpr (std::is_arithmetic_v<V>) {
    return get(*from);
  } else if constexpr (std::is_same_v<From, BFloat16>) {
    const Words both = *reinterpret_cast<const Words*>(from);
    return {reinterpret_cast<Vector<float>>(both << 16), reinterpret_cast<Vector<float>>(both & 0xffff0000u)};
  } else if constexpr (std::is_same_v<V, Pair>) {
    return {load<Vector<float>>(from), load<Vector<float>>(from + kBytes / 4)};
  } else {
    return *reinterpret_cast<const Vector<From>*>(from);  // not V, which has lost the attribute of any alignment
  }
}

inline Words rounded(Vector<float> v) {  // rounds like `put`; the result is in the upper half
  const Words word = reinterpret_cast<Words>(v), nan = Words{} + 0x7fc00000u;
  return (word & 0x7fffffffu) > 0x7f800000u ? nan : (word + 0x7fffu + ((word >> 16) & 1u)) & 0xffff0000u;
}

// Bytes of results that no second-level cache holds.
constexpr std::size_t kLarge = 4 << 20;

// `past`: store past the caches where the processor can; `to` must begin a cache line. A line that is written whole need not
// be read first, and results larger than the caches would be evicted before anything reads them.
template <class V, class To>
inline void store(To* to, V v, bool past = false) {
  if constexpr (std::is_arithmetic_v<V>) {
    put(*to, v);
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    *reinterpret_cast<Words*>(to) = (rounded(v.even) >> 16) | rounded(v.odd);
  } else if constexpr (std::is_same_v<V, Pair>) {
    store(to, v.even), store(to + kBytes / 4, v.odd);
  } else {
#if defined(__AVX512F__)
    if (past) return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(v));
#elif defined(__AVX__)
    if (past) return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(v));
#endif
    *reinterpret_cast<Vector<To>*>(to) = v;
  }
}

// Must run before another thread reads what was stored past the caches.
inline void stores_done() {
#ifdef __AVX__
  _mm_sfence();
#endif
}

enum Padding { kReflect, kReplicate, kZeros, kCircular };
enum Criterion { kL2, kL1, kLInfty, kMax, kL2Min, kL1Min };

// The pixel of an axis of n at position i of the padded axis, or -1 for a zero.
int64_t padded(int64_t i, int64_t n, int64_t padding) {
  if (i >= 0 && i < n) return i;
  switch (padding) {
    case kReflect: return i < 0 ? -i : 2 * (n - 1) - i;
    case kReplicate: return i < 0 ? 0 : n - 1;
    case kCircular: return ((i % n) + n) % n;
    default: return -1;
  }
}

template <class A>
struct Term {
  int64_t from;
  A weight;
};

// For one axis, each output's terms in the order of the taps, and the range of outputs [low, high) without a border.
template <class A>
struct Table {
  std::vector<int64_t> start;
  std::vector<Term<A>> terms;
  int64_t low = 0, high = 0, base = 0;

  const Term<A>* begin(int64_t o) const { return terms.data() + start[o]; }
  int64_t count(int64_t o) const { return start[o + 1] - start[o]; }
  int64_t size() const { return static_cast<int64_t>(start.size()) - 1; }
};

struct Axis {
  int64_t input, output, stride, before, after, padding;
  int64_t blurred(int64_t taps) const { return input + before + after - taps + 1; }
};

template <class A>
struct Taps {
  int64_t size;
  A weight[8];
  explicit Taps(int64_t k) : size(k) {  // Pascal's row k - 1 divided by its sum
    weight[0] = A(1) / A(int64_t(1) << (k - 1));
    for (int64_t i = 1; i < k; ++i) weight[i] = weight[i - 1] * A(k - i) / A(i);
  }
};

// The longest run of positions for which a predicate holds.
template <class F>
void longest_run(int64_t n, int64_t& low, int64_t& high, F holds) {
  low = high = 0;
  for (int64_t i = 0, from = 0; i <= n; ++i) {
    if (i < n && holds(i)) continue;
    if (i - from > high - low) low = from, high = i;
    from = i + 1;
  }
}

template <class A>
Table<A> forward_table(const Axis& axis, const Taps<A>& taps, int64_t phase) {
  Table<A> table;
  const int64_t blurred = axis.blurred(taps.size);
  table.base = phase - axis.before;
  table.start.assign(1, 0);
  for (int64_t o = 0; o < axis.output; ++o) {
    const int64_t first = (o * axis.stride + phase) % blurred - axis.before;
    for (int64_t j = 0; j < taps.size; ++j) {
      const int64_t from = padded(first + j, axis.input, axis.padding);
      if (from >= 0) table.terms.push_back({from, taps.weight[j]});
    }
    table.start.push_back(static_cast<int64_t>(table.terms.size()));
  }
  longest_run(axis.output, table.low, table.high, [&](int64_t o) {
    const int64_t first = o * axis.stride + table.base;
    return first >= 0 && first + taps.size <= axis.input && o * axis.stride + phase < blurred;
  });
  return table;
}

template <class A>
Table<A> backward_table(const Axis& axis, const Taps<A>& taps, int64_t phase) {
  const Table<A> forward = forward_table(axis, taps, phase);
  std::vector<std::vector<Term<A>>> terms(axis.input);
  for (int64_t j = 0; j < taps.size; ++j) {
    for (int64_t o = 0; o < axis.output; ++o) {
      const int64_t first = (o * axis.stride + phase) % axis.blurred(taps.size) - axis.before;
      const int64_t from = padded(first + j, axis.input, axis.padding);
      if (from >= 0) terms[from].push_back({o, taps.weight[j]});
    }
  }
  Table<A> table;
  table.base = forward.base;
  table.start.assign(1, 0);
  for (const auto& list : terms) {
    table.terms.insert(table.terms.end(), list.begin(), list.end());
    table.start.push_back(static_cast<int64_t>(table.terms.size()));
  }
  longest_run(axis.input, table.low, table.high, [&](int64_t i) {
    const int64_t q = i - table.base;
    std::size_t seen = 0;
    for (int64_t j = 0; j < taps.size; ++j) {
      if ((q - j) % axis.stride) continue;
      const int64_t o = (q - j) / axis.stride;
      if (o < 0 || o >= axis.output || seen >= terms[i].size() || terms[i][seen].from != o) return false;
      if (terms[i][seen].weight != taps.weight[j]) return false;
      ++seen;
    }
    return seen == terms[i].size();
  });
  return table;
}

}  // namespace
