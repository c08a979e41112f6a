// Dual-tree wavelet packets on the CPU: vertical pass, horizontal pass and the maps made of them at once. Called through
// ctypes.
//
// One plane at a time is padded, and its columns sorted by their remainder modulo the stride, into a scratch that stays in
// the caches: a tap is then an offset, and neighbouring outputs are neighbours. A row of outputs is one vertical pass into a
// second scratch, and horizontal passes from there. Of a packet's two maps, half the sum is one horizontal pass over the
// rows of the first tree, and half the difference one over those of the second; the maps are made of them in registers.
// The backward pass does the same in reverse.
//
// All four passes are one primitive, `multiply`. It adds the terms of every output in the same order, so multiplications
// and additions may be fused here.

#include "tables.hpp"

namespace {

constexpr int64_t kWidest = kBytes == 64 ? 2 : 1;

template <class A>
struct Lanes {
  typedef A type __attribute__((vector_size(kBytes), aligned(alignof(A)), may_alias));
  static constexpr int64_t count = kBytes / sizeof(A);
};

// Eight sums for each of as many positions as BLOCKS registers hold: of the terms weight[8 n + r] * from[offset[n]], where
// the first four sums are taken from `first` and the others from `second`.
template <int64_t BLOCKS, class A>
inline void multiply(const A* first, const A* second, const int64_t* offset, const A* weight, int64_t terms,
                     typename Lanes<A>::type (&sums)[8][BLOCKS]) {
  using V = typename Lanes<A>::type;
  V sum[8][BLOCKS] = {};
  for (int64_t n = 0; n < terms; ++n, weight += 8) {
    V one[BLOCKS], two[BLOCKS];
    for (int64_t b = 0; b < BLOCKS; ++b) one[b] = *reinterpret_cast<const V*>(first + offset[n] + b * Lanes<A>::count);
    for (int64_t b = 0; b < BLOCKS; ++b) two[b] = *reinterpret_cast<const V*>(second + offset[n] + b * Lanes<A>::count);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
      for (int64_t b = 0; b < BLOCKS; ++b) sum[r][b] += weight[r] * one[b];
#pragma GCC unroll 4
    for (int r = 4; r < 8; ++r)
      for (int64_t b = 0; b < BLOCKS; ++b) sum[r][b] += weight[r] * two[b];
  }
  for (int r = 0; r < 8; ++r)
    for (int64_t b = 0; b < BLOCKS; ++b) sums[r][b] = sum[r][b];
}

// Reads n numbers at `from` into a register, zeros after them; and writes the first n numbers of a register.
template <class A, class T>
inline typename Lanes<A>::type read(const T* from, int64_t n) {
  constexpr int64_t lanes = Lanes<A>::count;
  T numbers[lanes] = {};
  if (n >= lanes) std::memcpy(numbers, from, sizeof numbers);
  else if (n > 0) std::memcpy(numbers, from, n * sizeof(T));
  A sums[lanes];
#pragma GCC ivdep
  for (int64_t i = 0; i < lanes; ++i) sums[i] = get(numbers[i]);
  typename Lanes<A>::type v;
  std::memcpy(&v, sums, sizeof v);
  return v;
}

template <class A, class T>
inline void write(T* to, typename Lanes<A>::type v, int64_t n) {
  constexpr int64_t lanes = Lanes<A>::count;
  A sums[lanes];
  std::memcpy(sums, &v, sizeof v);
  T numbers[lanes];
#pragma GCC ivdep
  for (int64_t i = 0; i < lanes; ++i) put(numbers[i], sums[i]);
  if (n >= lanes) std::memcpy(to, numbers, sizeof numbers);
  else if (n > 0) std::memcpy(to, numbers, n * sizeof(T));
}

#ifdef __AVX512BW__
inline __mmask16 some(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1); }

template <>
inline Lanes<float>::type read<float, float>(const float* from, int64_t n) {
  return (Lanes<float>::type)_mm512_maskz_loadu_ps(some(n), from);
}
template <>
inline Lanes<float>::type read<float, BFloat16>(const BFloat16* from, int64_t n) {
  return (Lanes<float>::type)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some(n), from)), 16);
}
template <>
inline void write<float, float>(float* to, Lanes<float>::type v, int64_t n) {
  _mm512_mask_storeu_ps(to, some(n), (__m512)v);
}
template <>
inline void write<float, BFloat16>(BFloat16* to, Lanes<float>::type v, int64_t n) {
  _mm256_mask_storeu_epi16(to, some(n), _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)rounded((Vector<float>)v), 16)));
}
#endif

// Calls act(from, blocks) for [0, count) in pieces of `blocks` registers, an integral constant.
template <class A, class F>
inline void pieces(int64_t count, F act) {
  constexpr int64_t lanes = Lanes<A>::count;
  int64_t from = 0;
  if constexpr (kWidest > 1)
    for (; count - from > lanes; from += kWidest * lanes) act(from, std::integral_constant<int64_t, kWidest>());
  for (; from < count; from += lanes) act(from, std::integral_constant<int64_t, 1>());
}

struct Geometry {
  int64_t planes, height, width, paths, parts, taps, stride, down, right, rows, columns, padding, combined, packets;
};

struct Packet {
  int64_t vertical, horizontal, first, second;  // the two paths, and which maps of the output
};

inline int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <class T>
class Packets {
  using A = typename Sum<T>::type;
  using V = typename Lanes<A>::type;
  static constexpr int64_t kLanes = Lanes<A>::count;

  // Horizontal filters computed together, a multiple of four lanes, and their weights in the order of `multiply`.
  struct Horizontal {
    std::vector<int64_t> paths;
    int64_t lanes;
    std::vector<A> forward, backward;
  };
  // The horizontal passes over the rows of one vertical path, and where in the output each lane's two maps begin.
  struct Pass {
    int64_t vertical, horizontal;
    std::vector<int64_t> first, second;  // -1: an unused lane
  };

  const Geometry& g;
  const int64_t groups, line, pitch, trees, margin, reach;  // line: numbers of one remainder, pitch: of all
  std::vector<int64_t> row_of, column_of;                   // of the padded plane; -1 for a zero, as a row `height`
  std::vector<int64_t> along;                               // of a tap in a row of outputs
  std::vector<int64_t> each_tree;                           // of a tree's path in the scratch between the passes
  std::vector<int64_t> before_each;                         // of a lane, as many outputs before as there are groups of taps
  std::vector<A> down_weights, up_weights;
  std::vector<Horizontal> horizontals;
  std::vector<Pass> passes;
  int64_t most_lanes = 0;

 public:
  // vertical: two trees of `paths` filters; horizontal: half sums and half differences, `paths` times `parts` each.
  Packets(const Geometry& geometry, const A* vertical, const A* horizontal, const Packet* packets)
      : g(geometry), groups((g.taps + g.stride - 1) / g.stride), line(g.columns + groups - 1),
        pitch(up(g.stride * line, kLanes)), trees(up(2 * g.paths, 8)), margin(groups - 1),
        reach(margin + line + kWidest * kLanes) {
    for (int64_t q = 0; q < (g.rows - 1) * g.stride + g.taps; ++q) {
      const int64_t row = padded(q - g.down, g.height, g.padding);
      row_of.push_back(row < 0 ? g.height : row);
    }
    const int64_t extent = (g.columns - 1) * g.stride + g.taps;
    for (int64_t q = 0; q < g.stride * line; ++q)
      column_of.push_back(q < extent ? padded(q - g.right, g.width, g.padding) : -1);
    for (int64_t k = 0; k < g.taps; ++k) along.push_back(k % g.stride * line + k / g.stride);
    for (int64_t o = 0; o < 2 * g.paths; ++o) each_tree.push_back(o * pitch);
    down_weights.assign(trees * g.taps, A(0));
    up_weights.assign(2 * g.paths * up(g.taps, 8), A(0));
    for (int64_t o = 0; o < 2 * g.paths; ++o)
      for (int64_t k = 0; k < g.taps; ++k) {
        const A tap = vertical[o * g.taps + k];
        down_weights[(o / 8 * g.taps + k) * 8 + o % 8] = tap;
        up_weights[(k / 8 * 2 * g.paths + o) * 8 + k % 8] = tap;
      }
    std::vector<std::vector<Packet>> of_path(g.paths);
    for (int64_t n = 0; n < g.packets; ++n) of_path[packets[n].vertical].push_back(packets[n]);
    for (int64_t path = 0; path < g.paths; ++path)
      if (!of_path[path].empty()) add(path, of_path[path], horizontal);
    for (int64_t q = 0; q < most_lanes; ++q)
      for (int64_t n = 0; n < groups; ++n) before_each.push_back(q * reach + margin - n);
  }

  void forward(const T* from, T* to, int threads) const {
    const int64_t map = g.rows * g.columns, maps = 2 * g.packets * g.parts * map;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<A> plane((g.height + 1) * pitch), between(trees * pitch + kWidest * kLanes);
      std::vector<int64_t> rows(g.taps);
#pragma omp for schedule(static)
      for (int64_t n = 0; n < g.planes; ++n) {
        sort(from + n * g.height * g.width, plane.data());
        for (int64_t i = 0; i < g.rows; ++i) {
          for (int64_t k = 0; k < g.taps; ++k) rows[k] = row_of[i * g.stride + k] * pitch;
          for (int64_t t = 0; t < trees; t += 8)
            pieces<A>(pitch, [&](int64_t c, auto blocks) {
              V sums[8][blocks];
              multiply<blocks>(&plane[c], &plane[c], rows.data(), &down_weights[t * g.taps], g.taps, sums);
              for (int r = 0; r < 8; ++r)
                for (int64_t b = 0; b < blocks; ++b) write<A>(&between[(t + r) * pitch + c + b * kLanes], sums[r][b], kLanes);
            });
          for (const Pass& pass : passes) across(pass, between.data(), to + n * maps + i * g.columns);
        }
      }
    }
  }

  void backward(const T* from, T* to, int threads) const {
    const int64_t map = g.rows * g.columns, maps = 2 * g.packets * g.parts * map;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<A> plane((g.height + 1) * pitch), between(trees * pitch + kWidest * kLanes), row(g.width);
      std::vector<A> halves(2 * most_lanes * reach);
#pragma omp for schedule(static)
      for (int64_t n = 0; n < g.planes; ++n) {
        std::fill(plane.begin(), plane.end(), A(0));
        for (int64_t i = 0; i < g.rows; ++i) {
          for (const Pass& pass : passes) back(pass, from + n * maps + i * g.columns, halves.data(), between.data());
          for (int64_t k = 0; k < g.taps; k += 8)
            pieces<A>(pitch, [&](int64_t c, auto blocks) {
              V sums[8][blocks];
              multiply<blocks>(&between[c], &between[c], each_tree.data(), &up_weights[k * 2 * g.paths], 2 * g.paths, sums);
              for (int64_t r = 0; r < std::min<int64_t>(8, g.taps - k); ++r) {
                A* target = &plane[row_of[i * g.stride + k + r] * pitch + c];
                for (int64_t b = 0; b < blocks; ++b) *reinterpret_cast<V*>(target + b * kLanes) += sums[r][b];
              }
            });
        }
        fold(plane.data(), to + n * g.height * g.width, row.data());
      }
    }
  }

 private:
  void add(int64_t path, const std::vector<Packet>& packets, const A* filters) {
    Pass pass{path, 0, {}, {}};
    std::vector<int64_t> paths;
    for (const Packet& packet : packets) {
      paths.push_back(packet.horizontal);
      for (int64_t p = 0; p < g.parts; ++p) {
        pass.first.push_back((packet.first * g.parts + p) * g.rows * g.columns);
        pass.second.push_back((packet.second * g.parts + p) * g.rows * g.columns);
      }
    }
    const int64_t lanes = up(pass.first.size(), 4);
    pass.first.resize(lanes, -1), pass.second.resize(lanes, -1);
    most_lanes = std::max(most_lanes, lanes);
    const auto same = std::find_if(horizontals.begin(), horizontals.end(), [&](const auto& h) { return h.paths == paths; });
    pass.horizontal = same - horizontals.begin();
    if (same == horizontals.end()) horizontals.push_back(packed(paths, lanes, filters));
    passes.push_back(std::move(pass));
  }

  Horizontal packed(const std::vector<int64_t>& paths, int64_t lanes, const A* filters) const {
    const int64_t remainders = up(g.stride, 4);
    Horizontal found{paths, lanes, std::vector<A>(2 * lanes * g.taps), std::vector<A>(2 * remainders * lanes * groups)};
    for (int64_t q = 0; q < static_cast<int64_t>(paths.size()) * g.parts; ++q)
      for (int64_t half = 0; half < 2; ++half) {
        const A* filter = filters + ((half * g.paths + paths[q / g.parts]) * g.parts + q % g.parts) * g.taps;
        for (int64_t k = 0; k < g.taps; ++k) {
          found.forward[(q / 4 * g.taps + k) * 8 + half * 4 + q % 4] = filter[k];
          const int64_t r = k % g.stride, term = q * groups + k / g.stride;
          found.backward[(r / 4 * lanes * groups + term) * 8 + half * 4 + r % 4] = filter[k];
        }
      }
    return found;
  }

  // Calls act(remainder, low, high, shift): position stride * m + remainder of the padded axis is pixel stride * m + shift
  // of a row for m in [low, high); `column_of` has the others.
  template <class F>
  void inner(F act) const {
    const int64_t extent = (g.columns - 1) * g.stride + g.taps;
    for (int64_t r = 0; r < g.stride; ++r) {
      const int64_t end = std::min(g.width + g.right, extent) - r;
      const int64_t low = std::min(line, std::max<int64_t>(0, (g.right - r + g.stride - 1) / g.stride));
      act(r, low, end <= 0 ? low : std::max(low, std::min(line, (end - 1) / g.stride + 1)), r - g.right);
    }
  }

  // Copies a plane, its columns padded and sorted by their remainders.
  void sort(const T* from, A* to) const {
    for (int64_t i = 0; i < g.height; ++i, from += g.width, to += pitch)
      inner([&](int64_t r, int64_t low, int64_t high, int64_t shift) {
        const auto border = [&](int64_t m) {
          const int64_t column = column_of[m * g.stride + r];
          to[r * line + m] = column < 0 ? A(0) : A(get(from[column]));
        };
        for (int64_t m = 0; m < low; ++m) border(m);
        for (int64_t m = low; m < high; ++m) to[r * line + m] = get(from[m * g.stride + shift]);
        for (int64_t m = high; m < line; ++m) border(m);
      });
  }

  // The transpose of `sort`.
  void fold(const A* from, T* to, A* row) const {
    for (int64_t i = 0; i < g.height; ++i, from += pitch, to += g.width) {
      std::fill_n(row, g.width, A(0));
      inner([&](int64_t r, int64_t low, int64_t high, int64_t shift) {
        for (int64_t m = low; m < high; ++m) row[m * g.stride + shift] = from[r * line + m];
      });
      inner([&](int64_t r, int64_t low, int64_t high, int64_t) {
        const auto border = [&](int64_t m) {
          if (const int64_t column = column_of[m * g.stride + r]; column >= 0) row[column] += from[r * line + m];
        };
        for (int64_t m = 0; m < low; ++m) border(m);
        for (int64_t m = high; m < line; ++m) border(m);
      });
      for (int64_t j = 0; j < g.width; ++j) put(to[j], row[j]);
    }
  }

  // Computes a row of the maps of one vertical path.
  void across(const Pass& pass, const A* between, T* to) const {
    const Horizontal& horizontal = horizontals[pass.horizontal];
    const A *first = between + pass.vertical * pitch, *second = first + g.paths * pitch;
    for (int64_t q = 0; q < horizontal.lanes; q += 4)
      pieces<A>(g.columns, [&](int64_t j, auto blocks) {
        V sums[8][blocks];
        multiply<blocks>(first + j, second + j, along.data(), &horizontal.forward[2 * q * g.taps], g.taps, sums);
        for (int64_t r = 0; r < 4 && pass.first[q + r] >= 0; ++r)
          for (int64_t b = 0; b < blocks; ++b) {
            const V sum = sums[r][b], difference = sums[4 + r][b];
            const int64_t at = j + b * kLanes, n = g.columns - at;
            write<A>(to + pass.first[q + r] + at, g.combined ? sum - difference : sum, n);
            write<A>(to + pass.second[q + r] + at, g.combined ? sum + difference : difference, n);
          }
      });
  }

  // The transpose of `across`. Half sums and differences are in `halves`, with zeros before and after each lane.
  void back(const Pass& pass, const T* from, A* halves, A* between) const {
    const Horizontal& horizontal = horizontals[pass.horizontal];
    A *first = halves, *second = halves + most_lanes * reach;
    for (int64_t q = 0; q < horizontal.lanes; ++q) {
      A *sum = first + q * reach + margin, *difference = second + q * reach + margin;
      if (pass.first[q] < 0) {
        std::fill_n(sum, g.columns, A(0)), std::fill_n(difference, g.columns, A(0));
        continue;
      }
      const T *one = from + pass.first[q], *two = from + pass.second[q];
      for (int64_t j = 0; j < g.columns; j += kLanes) {
        const V a = read<A>(one + j, g.columns - j), b = read<A>(two + j, g.columns - j);
        *reinterpret_cast<V*>(sum + j) = g.combined ? a + b : a;
        *reinterpret_cast<V*>(difference + j) = g.combined ? b - a : b;
      }
    }
    for (int64_t r = 0; r < g.stride; r += 4)
      pieces<A>(line, [&](int64_t m, auto blocks) {
        V sums[8][blocks];
        const int64_t terms = horizontal.lanes * groups;
        multiply<blocks>(first + m, second + m, before_each.data(), &horizontal.backward[2 * r * terms], terms, sums);
        for (int64_t s = 0; s < std::min<int64_t>(4, g.stride - r); ++s)
          for (int64_t b = 0; b < blocks; ++b) {
            A* target = between + pass.vertical * pitch + (r + s) * line + m + b * kLanes;
            write<A>(target, sums[s][b], line - m - b * kLanes);
            write<A>(target + g.paths * pitch, sums[4 + s][b], line - m - b * kLanes);
          }
      });
  }
};

}  // namespace

extern "C" {

// From planes of NUMBERs to maps, or back. The filters have the type in which NUMBERs are summed; `packets` holds the two
// paths and the two maps of each packet; `numbers` is the geometry.
void stillpoint_packets(const void* from, void* to, const void* vertical, const void* horizontal, const void* packets,
                        const int64_t* numbers, int64_t backward, int64_t threads) {
  using A = Sum<NUMBER>::type;
  Geometry g;
  static_assert(sizeof g == 14 * sizeof(int64_t) && sizeof(Packet) == 4 * sizeof(int64_t), "plain numbers, in this order");
  std::memcpy(&g, numbers, sizeof g);
  const Packets<NUMBER> transform(g, static_cast<const A*>(vertical), static_cast<const A*>(horizontal), static_cast<const Packet*>(packets));
  const auto run = backward ? &Packets<NUMBER>::backward : &Packets<NUMBER>::forward;
  (transform.*run)(static_cast<const NUMBER*>(from), static_cast<NUMBER*>(to), static_cast<int>(threads));
}

}  // extern "C"
