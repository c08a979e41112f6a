// A filter for every output pixel, shared by the channels of a group: the three derivatives of one trilinear form
//
//   sum over b, c, i, j, taps of  weight[b, c's group, tap, i, j] * x[b, c, s i + tap row, t j + tap column] * y[b, c, i, j]
//
// One group of one image at a time. A plane is padded and sorted by its remainders modulo the strides into a scratch that
// stays in the caches: for every stride a tap is then an offset, and a whole map is one long sum without a border.
// Weights and outputs have the scratch's row length; what lies beyond a row's end is computed and ignored.

#pragma once

#include "tables.hpp"

namespace {

struct Local {
  int64_t batch, channels, height, width, groups, size, down, right, padding;
  int64_t x[4], weight[4], y[4];  // strides in elements
  int64_t rows() const { return (height + down - 1) / down; }
  int64_t columns() const { return (width + right - 1) / right; }
};

template <class T>
struct LocalFilter {
  using A = typename Sum<T>::type;
  const Local& g;
  const int64_t rows, columns, pitch, lines, plane, length, taps;
  std::vector<int64_t> row_of, column_of;  // of the padded map, -1 for a zero
  std::vector<int64_t> offset;             // of a tap in the sorted planes

  explicit LocalFilter(const Local& local)
      : g(local), rows(g.rows()), columns(g.columns()), pitch(columns + (g.size - 1) / g.right),
        lines(rows + (g.size - 1) / g.down), plane(lines * pitch), length((rows - 1) * pitch + columns), taps(g.size * g.size) {
    const auto places = [&](int64_t count, int64_t stride, int64_t extent, int64_t last) {
      std::vector<int64_t> found(count * stride);
      for (int64_t i = 0; i < count * stride; ++i)
        found[i] = i <= last ? padded(i - g.size / 2, extent, g.padding) : -1;
      return found;
    };
    row_of = places(lines, g.down, g.height, (rows - 1) * g.down + g.size - 1);
    column_of = places(pitch, g.right, g.width, (columns - 1) * g.right + g.size - 1);
    for (int64_t i = 0; i < g.size; ++i)
      for (int64_t j = 0; j < g.size; ++j)
        offset.push_back(((i % g.down) * g.right + j % g.right) * plane + i / g.down * pitch + j / g.right);
  }

  int64_t planes() const { return g.down * g.right * plane; }

  // The sorted planes of one channel.
  void sort(const T* image, A* to) const {
    const int64_t before = g.size / 2, step = g.x[3];
    for (int64_t r = 0; r < g.down; ++r)
      for (int64_t c = 0; c < g.right; ++c)
        for (int64_t i = 0; i < lines; ++i, to += pitch) {
          const int64_t row = row_of[i * g.down + r];
          if (row < 0) {
            std::fill_n(to, pitch, A(0));
            continue;
          }
          const T* from = image + row * g.x[2];
          const auto border = [&](int64_t m) {
            const int64_t column = column_of[m * g.right + c];
            to[m] = column < 0 ? A(0) : A(get(from[column * step]));
          };
          // for m in [low, high) pixel m * right + c - before is on the map
          const int64_t low = std::min(pitch, std::max<int64_t>(0, (before - c + g.right - 1) / g.right));
          const int64_t end = g.width - 1 + before - c;
          const int64_t high = end < 0 ? low : std::max(low, std::min(pitch, end / g.right + 1));
          for (int64_t m = 0; m < low; ++m) border(m);
          const T* inner = from + (low * g.right + c - before) * step;
          if (g.right * step == 2) {
            for (int64_t m = low; m < high; ++m) to[m] = get(inner[2 * (m - low)]);
          } else {
            for (int64_t m = low; m < high; ++m) to[m] = get(inner[g.right * step * (m - low)]);
          }
          for (int64_t m = high; m < pitch; ++m) border(m);
        }
  }

  // The transpose of `sort`: adds the sorted planes up at their source pixels.
  void fold(const A* from, T* image, A* sums) const {
    std::fill_n(sums, g.height * g.width, A(0));
    for (int64_t r = 0; r < g.down; ++r)
      for (int64_t c = 0; c < g.right; ++c)
        for (int64_t i = 0; i < lines; ++i, from += pitch) {
          const int64_t row = row_of[i * g.down + r];
          if (row < 0) continue;
          for (int64_t m = 0; m < pitch; ++m)
            if (const int64_t column = column_of[m * g.right + c]; column >= 0) sums[row * g.width + column] += from[m];
        }
    for (int64_t i = 0; i < g.height; ++i)
      for (int64_t j = 0; j < g.width; ++j) put(image[i * g.x[2] + j * g.x[3]], sums[i * g.width + j]);
  }

  // Copies a map of outputs or weights to the scratch's row length, and back.
  void widen(const T* map, const int64_t* stride, A* to) const {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) to[i * pitch + j] = get(map[i * stride[2] + j * stride[3]]);
      if (i + 1 < rows) std::fill(to + i * pitch + columns, to + (i + 1) * pitch, A(0));
    }
  }
  void narrow(const A* from, T* map, const int64_t* stride) const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) put(map[i * stride[2] + j * stride[3]], from[i * pitch + j]);
  }
};

// to[n] += a[n] * b[n]
template <class A>
void accumulate(const A* __restrict a, const A* __restrict b, A* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += a[i] * b[i];
}

enum Wanted { kOutput, kInput, kWeights };

// Computes one of x, weight and y, as `wanted`, from the other two.
template <class T>
void local_filter(void* x, void* weight, void* y, const Local& g, int64_t wanted, int threads) {
  using A = typename Sum<T>::type;
  const LocalFilter<T> filter(g);
  const int64_t each = g.channels / g.groups, span = filter.length, piece = 512;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<A> maps(filter.taps * span), planes(filter.planes()), out(span), sums(g.height * g.width);
#pragma omp for schedule(static)
    for (int64_t job = 0; job < g.batch * g.groups; ++job) {
      const int64_t image = job / g.groups, group = job % g.groups;
      T* filters = static_cast<T*>(weight) + image * g.weight[0] + group * filter.taps * g.weight[1];
      if (wanted == kWeights) std::fill(maps.begin(), maps.end(), A(0));
      else
        for (int64_t k = 0; k < filter.taps; ++k) filter.widen(filters + k * g.weight[1], g.weight, &maps[k * span]);
      for (int64_t c = group * each; c < (group + 1) * each; ++c) {
        T* source = static_cast<T*>(x) + image * g.x[0] + c * g.x[1];
        T* target = static_cast<T*>(y) + image * g.y[0] + c * g.y[1];
        if (wanted == kInput) std::fill(planes.begin(), planes.end(), A(0));
        else filter.sort(source, planes.data());
        if (wanted == kOutput) std::fill(out.begin(), out.end(), A(0));
        else filter.widen(target, g.y, out.data());
        for (int64_t from = 0; from < span; from += piece) {  // every tap of a piece, while that is in the nearest cache
          const int64_t n = std::min(piece, span - from);
          for (int64_t k = 0; k < filter.taps; ++k) {
            A *w = &maps[k * span + from], *p = &planes[filter.offset[k] + from], *o = &out[from];
            if (wanted == kOutput) accumulate(w, p, o, n);
            else if (wanted == kInput) accumulate(w, o, p, n);
            else accumulate(p, o, w, n);
          }
        }
        if (wanted == kOutput) filter.narrow(out.data(), target, g.y);
        if (wanted == kInput) filter.fold(planes.data(), source, sums.data());
      }
      if (wanted == kWeights)
        for (int64_t k = 0; k < filter.taps; ++k) filter.narrow(&maps[k * span], filters + k * g.weight[1], g.weight);
    }
  }
}

}  // namespace
