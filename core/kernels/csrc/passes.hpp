// One direction of a blur over rows and columns, by tables.

#pragma once

#include "sums.hpp"

namespace {

// Prefetches what the next row needs, a piece at a time, while this row is computed: the rows of a channels-last map are
// longer than what the processor prefetches by itself. Into the first-level cache, although they do not fit: prefetching
// into the second was useless (five taps took up to twice as long).
struct Ahead {
  const char* next = nullptr;
  int64_t bytes = 0;

  // The bytes of one of `parts` equal pieces, in whole cache lines.
  int64_t piece(int64_t parts) const { return parts ? (bytes / parts + 63) & ~int64_t(63) : 0; }

  void fetch(int64_t count) {
    if (!next) return;
    for (int64_t k = 0; k < count; k += 64) __builtin_prefetch(next + k, 0, 3);
    next += count;
  }
};

// N taps for `count` pixels of a channels-last map.
template <int N, class A, class To>
void strip(const A* middle, int64_t tap_step, const A* w, To* out, int64_t count, int64_t in_step, int64_t out_step,
           int64_t channels, bool past, Ahead ahead) {
  A weight[N];
  for (int k = 0; k < N; ++k) weight[k] = w[k];
  const int64_t piece = ahead.piece(count), line = channels * static_cast<int64_t>(sizeof(To));
  for (int64_t o = 0; o < count; ++o, middle += in_step, out += out_step) {
    ahead.fetch(piece);
    if constexpr (std::is_same_v<To, A>) {
      if (past) {
        for (int64_t c = 0; c < channels; c += Many<A>::count) {
          Vector<A> v = weight[0] * load<Vector<A>>(middle + c);
#pragma GCC unroll 8
          for (int k = 1; k < N; ++k) v += weight[k] * load<Vector<A>>(middle + c + k * tap_step);
          store(out + c, v, past);
        }
        continue;
      }
    }
    for (int64_t k = 0; k < line; k += 64) __builtin_prefetch(reinterpret_cast<const char*>(out + 4 * out_step) + k, 1, 3);
    To* __restrict target = out;
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      A v = weight[0] * middle[c];
#pragma GCC unroll 8
      for (int k = 1; k < N; ++k) v += weight[k] * middle[c + k * tap_step];
      put(target[c], v);
    }
  }
}

template <class A, class To>
void strip(int64_t taps, const A* middle, int64_t tap_step, const A* w, To* out, int64_t count, int64_t in_step, int64_t out_step,
           int64_t channels, bool past, Ahead ahead) {
  switch (taps) {
    case 0:
      for (int64_t o = 0; o < count; ++o)
        for (int64_t c = 0; c < channels; ++c) put(out[o * out_step + c], A(0));
      return;
    case 1: return strip<1>(middle, tap_step, w, out, count, in_step, out_step, channels, past, ahead);
    case 2: return strip<2>(middle, tap_step, w, out, count, in_step, out_step, channels, past, ahead);
    case 3: return strip<3>(middle, tap_step, w, out, count, in_step, out_step, channels, past, ahead);
    case 4: return strip<4>(middle, tap_step, w, out, count, in_step, out_step, channels, past, ahead);
    case 5: return strip<5>(middle, tap_step, w, out, count, in_step, out_step, channels, past, ahead);
    case 6: return strip<6>(middle, tap_step, w, out, count, in_step, out_step, channels, past, ahead);
    default: return strip<7>(middle, tap_step, w, out, count, in_step, out_step, channels, past, ahead);
  }
}

// A run of outputs with the same taps: its start and length, and the offsets of the first output's taps in a row.
template <class A>
struct Spot {
  int64_t start, count, taps, columns[8];
  A weights[8];
};

// Both directions at once, K taps each, for channels-last maps. The sums down the last KEPT columns of one output are those
// down the first columns of the next, and are stored in `kept`, KEPT times `channels` numbers.
template <int K, int KEPT, class A, class From, class To>
void window(const From* const* rows, const A* down, const Spot<A>& spot, To* out, int64_t step, int64_t channels, A* kept, bool past, Ahead ahead) {
  const From* r[K];
  A a[K], b[K];
  int64_t column[K];
  for (int k = 0; k < K; ++k) r[k] = rows[k], a[k] = down[k], b[k] = spot.weights[k], column[k] = spot.columns[k];
  // all channels, as many at a time as registers hold, then one by one
  const auto each = [&](const auto& work) {
    int64_t c = 0;
    if constexpr (std::is_same_v<From, To>)
      for (; c + Many<To>::count <= channels; c += Many<To>::count) work(typename Many<To>::type{}, c);
#pragma GCC ivdep
    for (; c < channels; ++c) work(A{}, c);
  };
  const auto sum_down = [&](auto kind, int j, int64_t c) {
    using V = decltype(kind);
    V u = a[0] * load<V>(r[0] + column[j] + c);
#pragma GCC unroll 8
    for (int i = 1; i < K; ++i) u += a[i] * load<V>(r[i] + column[j] + c);
    return u;
  };
  for (int j = 0; j < KEPT; ++j) each([&](auto kind, int64_t c) { store(kept + j * channels + c, sum_down(kind, j, c)); });
  const auto pixel = [&](auto kind, int64_t c) {
    using V = decltype(kind);
    V u[K];
#pragma GCC unroll 8
    for (int j = 0; j < KEPT; ++j) u[j] = load<V>(kept + j * channels + c);
#pragma GCC unroll 8
    for (int j = KEPT; j < K; ++j) u[j] = sum_down(kind, j, c);
    V v = b[0] * u[0];
#pragma GCC unroll 8
    for (int j = 1; j < K; ++j) v += b[j] * u[j];
    store(out + c, v, past);
#pragma GCC unroll 8
    for (int j = 0; j < KEPT; ++j) store(kept + j * channels + c, u[K - KEPT + j]);
  };
  const int64_t piece = ahead.piece(spot.count);
  out += spot.start * channels;
  for (int64_t o = 0; o < spot.count; ++o, out += channels) {
    ahead.fetch(piece);
    each(pixel);
    for (int k = 0; k < K; ++k) r[k] += step;
  }
}

template <class A, class From, class To>
void window(const From* const* rows, const A* down, const Spot<A>& spot, To* out, int64_t step, int64_t channels, A* kept, bool past, Ahead ahead) {
  // keeping more than one costs what it saves, unless reading a number is expensive (bfloat16)
  constexpr bool one = std::is_same_v<From, To>, more = one && std::is_same_v<From, BFloat16>;
  const bool shared = one && spot.count > 1 && step == 2 * channels;
  switch (spot.taps) {
    case 1: return window<1, 0>(rows, down, spot, out, step, channels, kept, past, ahead);
    case 2: return window<2, 0>(rows, down, spot, out, step, channels, kept, past, ahead);
    case 3: return (shared ? window<3, one, A, From, To> : window<3, 0, A, From, To>)(rows, down, spot, out, step, channels, kept, past, ahead);
    case 4: return (shared ? window<4, 2 * more, A, From, To> : window<4, 0, A, From, To>)(rows, down, spot, out, step, channels, kept, past, ahead);
    default: return (shared ? window<5, 3 * more, A, From, To> : window<5, 0, A, From, To>)(rows, down, spot, out, step, channels, kept, past, ahead);
  }
}

// The borderless outputs of a backward pass in whole groups: output start + stride * m + c, 0 <= m < count, has tap j of
// remainder c from input first + m - (j - c) / stride.
struct Run {
  int64_t start, first, count;
};

template <class A>
Run aligned(const Table<A>& table, int64_t stride) {
  const auto ceiling = [&](int64_t v) { return v >= 0 ? (v + stride - 1) / stride : -(-v / stride); };
  const int64_t first = ceiling(table.low - table.base), end = ceiling(table.high - table.base - stride + 1);
  return end > first ? Run{first * stride + table.base, first, end - first} : Run{0, 0, 0};
}

// to[c * length / stride + i] = from[i * stride + c]
template <class A>
void split(const A* from, A* to, int64_t length, int64_t stride) {
  const int64_t part = length / stride;
  if (stride == 2) {
    A *__restrict even = to, *__restrict odd = to + part;
    for (int64_t i = 0; i < part; ++i) even[i] = from[2 * i], odd[i] = from[2 * i + 1];
    return;
  }
  for (int64_t c = 0; c < stride; ++c)
    for (int64_t i = 0; i < part; ++i) to[c * part + i] = from[i * stride + c];
}

// out[i * stride + c] = from[c * part + i]
template <class A, class To>
void merge(const A* from, int64_t part, To* out, int64_t n, int64_t stride) {
  if (stride == 2) {
    const A *even = from, *odd = from + part;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) put(out[2 * i], even[i]), put(out[2 * i + 1], odd[i]);
    return;
  }
  for (int64_t c = 0; c < stride; ++c)
    for (int64_t i = 0; i < n; ++i) put(out[i * stride + c], from[c * part + i]);
}

template <class A>
struct Pass {  // one direction of a blur, with the tables of every phase
  Axis down, right;
  Taps<A> taps;
  int64_t channels;
  bool last, backward, past = false;  // past: store results past the caches
  std::vector<Table<A>> rows, columns;
  std::vector<std::vector<Spot<A>>> spots;  // for each column phase, if both directions are computed at once

  Pass(const Axis& y, const Axis& x, int64_t size, int64_t channel_count, bool channels_last, bool adjoint, bool phases)
      : down(y), right(x), taps(size), channels(channel_count), last(channels_last), backward(adjoint) {
    const auto make = [&](const Axis& axis, int64_t phase) {
      return adjoint ? backward_table(axis, taps, phase) : forward_table(axis, taps, phase);
    };
    for (int64_t r = 0; r < (phases ? y.stride : 1); ++r) rows.push_back(make(y, r));
    for (int64_t c = 0; c < (phases ? x.stride : 1); ++c) columns.push_back(make(x, c));
    // Sums down a column are recomputed for every output that uses them, so only for few taps and at most two outputs.
    if (last && !backward && size <= 5 && x.stride > 1)
      for (const Table<A>& table : columns) spots.push_back(runs(table));
  }
  // Decides whether `count` results at `out` go past the caches, in whole cache lines, as they would not stay in them.
  template <class To>
  void store_to(const To* out, int64_t count) {
    past = std::is_same_v<To, A> && last && count * sizeof(To) >= kLarge && channels * sizeof(To) % 64 == 0 &&
           reinterpret_cast<std::uintptr_t>(out) % 64 == 0;
  }
  int64_t height() const { return backward ? down.output : down.input; }
  int64_t width() const { return backward ? right.output : right.input; }
  int64_t height_out() const { return backward ? down.input : down.output; }
  int64_t width_out() const { return backward ? right.input : right.output; }
  int64_t lanes() const { return last ? channels : 1; }

  // Length of a row between the passes: forward, a multiple of the stride, so that consecutive rows are one long row for
  // the taps of a pixel without a border.
  int64_t pitch() const {
    const int64_t s = right.stride;
    return last ? width() * channels : backward ? width() : s * ((std::max(width(), s * width_out()) + s - 1) / s);
  }
  // Room before and after the rows, since the taps of the first and last reach further; such results are overwritten.
  int64_t guard() const {
    const int64_t s = right.stride, reach = taps.size + s + std::abs(right.before) + std::abs(right.after);
    return last ? 0 : s * ((reach + s - 1) / s);
  }
  // Rows computed at a time: few enough to fit, with the intermediate results, in part of the first-level cache.
  int64_t block() const { return last ? 1 : std::max<int64_t>(1, std::min(height_out(), 768 / pitch())); }
  std::size_t scratch() const { return 3 * static_cast<std::size_t>(block() * pitch() + 2 * guard() + lanes() + 16) * (backward && !last ? right.stride : 1); }

  // Computes rows [o, end) of one image (channels last) or plane. `scratch` is zero where nothing has been written yet.
  template <class From, class To>
  void operator()(const From* from, To* out, int64_t o, int64_t end, int64_t r, int64_t c, A* scratch) const {
    const int64_t line = pitch(), room = block() * line + 2 * guard();
    A *middle = scratch + guard(), *space = scratch + room;
    A* spare = on_line(space + room * (backward && !last ? right.stride : 1));
    const Table<A>& table = columns[c];
    if (last) {
      for (; o < end; ++o, out += width_out() * channels) {
        const Ahead ahead = next_rows(rows[r], from, o);
        if (!spots.empty() && (taps.size <= 3 || std::is_same_v<From, To>) && rows[r].count(o) == taps.size) {
          at_once(rows[r], c, from, o, out, middle, spare, ahead);
          continue;
        }
        gather(rows[r], o, from, line, middle, line, spare);
        pixels(table, middle, out, spare, ahead);
      }
      return;
    }
    if (taps.size == 1 && !backward && !down.before && !down.after && !right.before && !right.after)
      return sample(rows[r], table, from, out, o, end);
    columns_down(rows[r], from, o, end, middle, spare);
    if (backward) spread(table, middle, out, end - o, space);
    else reduce(table, scratch, out, end - o, space);
    const Run run = backward ? aligned(table, right.stride) : Run{table.low, 0, table.high - table.low};
    const int64_t stop = run.start + run.count * (backward ? right.stride : 1);
    borders(table, 0, run.start, middle, line, out, width_out(), end - o);
    borders(table, stop, width_out(), middle, line, out, width_out(), end - o);
  }

 private:
  // The next address at which a cache line begins.
  static A* on_line(A* at) { return reinterpret_cast<A*>((reinterpret_cast<std::uintptr_t>(at) + 63) & ~std::uintptr_t(63)); }

  // Without a filter: single pixels of single rows.
  template <class From, class To>
  void sample(const Table<A>& down_table, const Table<A>& table, const From* from, To* out, int64_t o, int64_t end) const {
    const int64_t low = table.low, high = std::max(low, table.high), s = right.stride;
    for (; o < end; ++o, out += width_out()) {
      const From* row = from + down_table.begin(o)->from * width();
      across(table, 0, low, row, out);
      const From* picked = row + low * s + table.base;
      if (s == 2) for (int64_t k = 0; k < high - low; ++k) put(out[low + k], A(get(picked[2 * k])));
      else for (int64_t k = 0; k < high - low; ++k) put(out[low + k], A(get(picked[s * k])));
      across(table, high, width_out(), row, out);
    }
  }

  // Sums down the columns for rows [o, end): those without a border together, since for short rows the bookkeeping costs as
  // much as the sum; the others one by one.
  template <class From>
  void columns_down(const Table<A>& table, const From* from, int64_t o, int64_t end, A* middle, A* spare) const {
    const int64_t n = width(), line = pitch(), s = down.stride;
    const Run run = backward ? aligned(table, s) : Run{table.low, 0, std::max<int64_t>(0, table.high - table.low)};
    const int64_t low = std::clamp(run.start, o, end);
    const int64_t high = std::clamp(run.start + run.count * (backward ? s : 1), low, end);
    if (!backward) {
      together(0, 1, from + (low * s + table.base) * n, n, s * n, high - low, middle + (low - o) * line, line);
    } else {
      for (int64_t c = 0; c < s; ++c) {
        const int64_t skipped = (low - run.start - c + s - 1) / s, first = run.start + c + skipped * s;
        together(c, s, from + (run.first + skipped) * n, -n, n, (high - first + s - 1) / s, middle + (first - o) * line, s * line);
      }
    }
    for (int64_t k = o; k < low; ++k) gather(table, k, from, n, middle + (k - o) * line, n, spare);
    for (int64_t k = high; k < end; ++k) gather(table, k, from, n, middle + (k - o) * line, n, spare);
  }

  // Rows whose taps are c, c + every, ...
  template <class From>
  void together(int64_t c, int64_t every, const From* from, int64_t tap_step, int64_t from_step, int64_t count, A* to, int64_t to_step) const {
    const int64_t n = width();
    const From* shifted[8];
    A weights[8];
    int64_t terms = 0;
    for (int64_t j = c; j < taps.size; j += every) shifted[terms] = from + terms * tap_step, weights[terms++] = taps.weight[j];
    if (count < 1) return;
    if (from_step == n && to_step == n) return combine<A>(terms, shifted, weights, to, n * count, 1, 0, 0);  // one long row
    combine<A>(terms, shifted, weights, to, n, count, from_step, to_step);
  }

  // Forward across a block of rows: sorts columns by remainder, then computes one sum for all rows.
  template <class To>
  void reduce(const Table<A>& table, const A* guarded, To* out, int64_t count, A* space) const {
    if (table.high <= table.low) return;
    const int64_t s = right.stride, line = pitch(), length = count * line + 2 * guard(), part = length / s;
    const A* shifted[8];
    if (s > 1) split(guarded, space, length, s);
    for (int64_t j = 0; j < taps.size; ++j) {
      const int64_t at = guard() + table.base + j;
      shifted[j] = s > 1 ? space + (at % s) * part + at / s : guarded + at;
    }
    if (line == s * width_out()) return combine<A>(taps.size, shifted, taps.weight, out, count * width_out());
    combine<A>(taps.size, shifted, taps.weight, out, width_out(), count, line / s, width_out());
  }

  // Backward across a block of rows: one sum for the outputs of every remainder, then interleaves them.
  template <class To>
  void spread(const Table<A>& table, const A* middle, To* out, int64_t count, A* space) const {
    const int64_t s = right.stride, line = pitch();
    const Run run = aligned(table, s);
    if (!run.count) return;
    const int64_t n = (count - 1) * line + run.count;
    const bool flat = s * line == width_out();
    for (int64_t c = 0; c < s; ++c) {
      const A* shifted[8];
      A weights[8];
      int64_t terms = 0;
      for (int64_t j = c; j < taps.size; j += s) {
        shifted[terms] = middle + run.first - (j - c) / s;
        weights[terms++] = taps.weight[j];
      }
      if (s == 1 && flat) return combine<A>(terms, shifted, weights, out + run.start, n);
      combine<A>(terms, shifted, weights, space + c * n, n);
    }
    if (flat) return merge(space, n, out + run.start, n, s);
    for (int64_t k = 0; k < count; ++k) merge(space + k * line, n, out + k * width_out() + run.start, run.count, s);
  }

  // The rows that output o + 1 needs and o did not; for the last output, those that the next image's first output needs.
  template <class From>
  Ahead next_rows(const Table<A>& table, const From* from, int64_t o) const {
    const int64_t next = o + 1 < table.size() ? o + 1 : 0;
    if (!table.count(o) || !table.count(next)) return {};
    const auto furthest = [&](int64_t k) { return table.begin(k)[backward ? 0 : table.count(k) - 1].from; };
    const int64_t begin = next ? furthest(o) + 1 : height(), end = furthest(next) + 1 + (next ? 0 : height());
    if (end <= begin) return {};
    return {reinterpret_cast<const char*>(from + begin * pitch()), (end - begin) * pitch() * static_cast<int64_t>(sizeof(From))};
  }

  // The outputs of a row in runs with the same taps: all those without a border, and each of the others alone.
  std::vector<Spot<A>> runs(const Table<A>& table) const {
    const auto spot = [&](int64_t start, int64_t count) {
      Spot<A> found{start, count, table.count(start), {}, {}};
      for (int64_t k = 0; k < found.taps; ++k)
        found.columns[k] = table.begin(start)[k].from * channels, found.weights[k] = table.begin(start)[k].weight;
      return found;
    };
    std::vector<Spot<A>> found;
    for (int64_t x = 0; x < table.low; ++x) found.push_back(spot(x, 1));
    if (table.high > table.low) found.push_back(spot(table.low, table.high - table.low));
    for (int64_t x = std::max(table.low, table.high); x < width_out(); ++x) found.push_back(spot(x, 1));
    return found;
  }

  // A row with all its taps, down and across at once, without an intermediate row of sums.
  template <class From, class To>
  void at_once(const Table<A>& table, int64_t phase, const From* from, int64_t o, To* out, A* middle, A* spare, Ahead ahead) const {
    const int64_t line = pitch();
    const Term<A>* term = table.begin(o);
    const From* rows[5];
    A weights[5];
    for (int64_t k = 0; k < taps.size; ++k) rows[k] = from + term[k].from * line, weights[k] = term[k].weight;
    for (const Spot<A>& spot : spots[phase]) {
      if (spot.taps == taps.size) {
        window(rows, weights, spot, out, right.stride * channels, channels, spare, past, spot.count > 1 ? ahead : Ahead{});
      } else {  // a border of zeros: fewer columns, which are adjacent
        const int64_t first = spot.taps ? spot.columns[0] : 0;
        gather(table, o, from + first, line, middle + first, spot.taps * channels, spare);
        gather(columns[phase], spot.start, middle, channels, out + spot.start * channels, channels, spare);
      }
    }
  }

  // Across one row of a channels-last map.
  template <class To>
  void pixels(const Table<A>& table, const A* middle, To* out, A* spare, Ahead ahead) const {
    int64_t low = table.low, high = std::max(table.low, table.high);
    const int64_t s = right.stride;
    if (!backward) {
      strip<A>(taps.size, middle + (low * s + table.base) * channels, channels, taps.weight, out + low * channels, high - low,
               s * channels, channels, channels, past, ahead);
    } else {
      const Run run = aligned(table, s);
      low = run.start, high = run.start + run.count * s;
      for (int64_t c = 0; c < s; ++c) {
        A weights[8];
        int64_t terms = 0;
        for (int64_t j = c; j < taps.size; j += s) weights[terms++] = taps.weight[j];
        strip<A>(terms, middle + run.first * channels, -channels, weights, out + (low + c) * channels, run.count, channels,
                 s * channels, channels, past, c ? Ahead{} : ahead);
      }
    }
    for (int64_t x = 0; x < width_out(); ++x) {
      if (x == low && high > low) x = high;
      if (x < width_out()) gather(table, x, middle, channels, out + x * channels, channels, spare);
    }
  }
};

}  // namespace
