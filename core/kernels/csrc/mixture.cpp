// Mixtures of the four phases of feature maps at stride two, the phases themselves, and translation invariant polyphase
// sampling. Called through ctypes.
//
// A mixture is the trilinear form sum over images, channels, pixels and phases of weight[k] * x[k's pixel] * y[pixel]; the
// three functions are its derivatives by y, by x and by the weights. Phase k = row + 2 * column.
//
// Maps are (B, C, H, W) packed, channels first or last. Weights are (B, C, 4), or (B, 4) where channels share them.

#include "tables.hpp"

namespace {

constexpr int64_t kLanes = 16;

// Sums of products of two rows, one phase of each column, in lanes that are added at the end.
template <class A, class T>
void products(const T* x, int64_t wide, const T* y, int64_t n, double* sums) {
  A lane[4][kLanes] = {};
  const T* below = x + wide;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) {
      const A v = get(y[j + l]);
      lane[0][l] += v * get(x[2 * (j + l)]), lane[2][l] += v * get(x[2 * (j + l) + 1]);
      lane[1][l] += v * get(below[2 * (j + l)]), lane[3][l] += v * get(below[2 * (j + l) + 1]);
    }
  for (; j < n; ++j) {
    const A v = get(y[j]);
    lane[0][0] += v * get(x[2 * j]), lane[2][0] += v * get(x[2 * j + 1]);
    lane[1][0] += v * get(below[2 * j]), lane[3][0] += v * get(below[2 * j + 1]);
  }
  for (int k = 0; k < 4; ++k)
    for (int64_t l = 0; l < kLanes; ++l) sums[k] += lane[k][l];
}

enum Wanted { kOutput, kInput, kWeights };

template <class T, class A = typename Sum<T>::type>
struct Mixture {
  int64_t batch, channels, height, width;  // of the small map
  bool last, shared;                       // channels last; weights shared by them

  int64_t small() const { return height * width; }

  void plane(int64_t wanted, T* x, const A* w, T* y, double* sums) const {
    for (int64_t i = 0; i < height; ++i, x += 4 * width, y += width) {
      T *__restrict above = x, *__restrict below = x + 2 * width, *__restrict out = y;
      if (wanted == kWeights) products<A>(x, 2 * width, y, width, sums);
      else if (wanted == kOutput)
        for (int64_t j = 0; j < width; ++j)
          put(out[j], w[0] * get(above[2 * j]) + w[1] * get(below[2 * j]) + w[2] * get(above[2 * j + 1]) + w[3] * get(below[2 * j + 1]));
      else
        for (int64_t j = 0; j < width; ++j) {
          const A v = get(out[j]);
          put(above[2 * j], w[0] * v), put(above[2 * j + 1], w[2] * v);
          put(below[2 * j], w[1] * v), put(below[2 * j + 1], w[3] * v);
        }
    }
  }

  // One row of a channels-last image; `w` and `sums` are four rows of channels.
  void row(int64_t wanted, T* x, const A* w, T* y, A* sums) const {
    const int64_t n = channels, line = 2 * width * n;
    for (int64_t j = 0; j < width; ++j, x += 2 * n, y += n) {
      T* const phase[4] = {x, x + line, x + n, x + line + n};
      T *__restrict a = phase[0], *__restrict b = phase[1], *__restrict c = phase[2], *__restrict d = phase[3], *__restrict out = y;
      const A *w0 = w, *w1 = w + n, *w2 = w + 2 * n, *w3 = w + 3 * n;
      A *__restrict s0 = sums, *__restrict s1 = sums + n, *__restrict s2 = sums + 2 * n, *__restrict s3 = sums + 3 * n;
      if (wanted == kOutput)
        for (int64_t k = 0; k < n; ++k) put(out[k], w0[k] * get(a[k]) + w1[k] * get(b[k]) + w2[k] * get(c[k]) + w3[k] * get(d[k]));
      else if (wanted == kInput)
        for (int64_t k = 0; k < n; ++k) {
          const A v = get(out[k]);
          put(a[k], w0[k] * v), put(b[k], w1[k] * v), put(c[k], w2[k] * v), put(d[k], w3[k] * v);
        }
      else
        for (int64_t k = 0; k < n; ++k) {
          const A v = get(out[k]);
          s0[k] += v * get(a[k]), s1[k] += v * get(b[k]), s2[k] += v * get(c[k]), s3[k] += v * get(d[k]);
        }
    }
  }

  void run(int64_t wanted, T* x, A* weight, T* y, int threads) const {
    const int64_t groups = shared ? 1 : channels;
    if (!last) {
      std::vector<double> sums(wanted == kWeights ? batch * channels * 4 : 0);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
      for (int64_t p = 0; p < batch * channels; ++p)
        plane(wanted, x + p * 4 * small(), weight + (shared ? p / channels : p) * 4, y + p * small(), sums.data() + p * 4);
      if (wanted != kWeights) return;
      std::vector<double> totals(batch * groups * 4);
      for (int64_t p = 0; p < batch * channels; ++p)
        for (int k = 0; k < 4; ++k) totals[(shared ? p / channels : p) * 4 + k] += sums[p * 4 + k];
      for (int64_t p = 0; p < batch * groups * 4; ++p) weight[p] = static_cast<A>(totals[p]);
      return;
    }
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<A> turned(4 * channels), sums(wanted == kWeights ? 4 * channels : 0);
      std::vector<double> totals(4 * channels);
#pragma omp for schedule(static)
      for (int64_t b = 0; b < batch; ++b) {
        A* w = weight + b * groups * 4;
        if (wanted != kWeights)
          for (int64_t c = 0; c < channels; ++c)
            for (int k = 0; k < 4; ++k) turned[k * channels + c] = w[(shared ? 0 : c) * 4 + k];
        std::fill(totals.begin(), totals.end(), 0.0);
        for (int64_t i = 0; i < height; ++i) {
          std::fill(sums.begin(), sums.end(), A(0));
          row(wanted, x + (b * height + i) * 4 * width * channels, turned.data(), y + (b * height + i) * width * channels, sums.data());
          if (wanted == kWeights)
            for (int64_t k = 0; k < 4 * channels; ++k) totals[k] += sums[k];
        }
        if (wanted != kWeights) continue;
        for (int k = 0; k < 4; ++k) {
          double all = 0;
          for (int64_t c = 0; c < channels; ++c) {
            if (!shared) w[c * 4 + k] = static_cast<A>(totals[k * channels + c]);
            all += totals[k * channels + c];
          }
          if (shared) w[k] = static_cast<A>(all);
        }
      }
    }
  }
};

// The four phases of maps (B, C, 2h, 2w), image by image, (4B, C, h + 2, w + 2), each in a frame of one pixel that wraps or
// is zero; and the adjoint, which adds the frame to the pixels that it repeats, rows first.
template <class T, class A = typename Sum<T>::type>
struct Frames {
  int64_t batch, channels, height, width;  // of a phase
  bool last, wraps;

  int64_t line() const { return width + 2; }
  int64_t framed() const { return (height + 2) * line(); }

  // Splits a row of the map into rows of two phases, frames included.
  void halve(const T* __restrict from, T* __restrict even, T* __restrict odd) const {
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes)  // the constant length compiles to two shuffles
      for (int64_t l = 0; l < kLanes; ++l) even[1 + j + l] = from[2 * (j + l)], odd[1 + j + l] = from[2 * (j + l) + 1];
    for (; j < width; ++j) even[1 + j] = from[2 * j], odd[1 + j] = from[2 * j + 1];
    even[0] = wraps ? even[width] : T{}, even[width + 1] = wraps ? even[1] : T{};
    odd[0] = wraps ? odd[width] : T{}, odd[width + 1] = wraps ? odd[1] : T{};
  }
  // `halve` for channels-last maps.
  void deal(const T* from, T* even, T* odd) const {
    const int64_t n = channels;
    for (int64_t j = 1; j <= width; ++j, from += 2 * n) {
      std::copy_n(from, n, even + j * n);
      std::copy_n(from + n, n, odd + j * n);
    }
    for (T* row : {even, odd}) {
      T* after = row + (width + 1) * n;
      if (wraps) std::copy_n(after - n, n, row), std::copy_n(row + n, n, after);
      else std::fill_n(row, n, T{}), std::fill_n(after, n, T{});
    }
  }

  void split(const T* x, T* y, int threads) const {
    const int64_t unit = last ? channels : 1, row = line() * unit;  // count of numbers of a pixel and of a framed row
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t p = 0; p < batch * (last ? 1 : channels); ++p) {
      T* phase[4];
      for (int k = 0; k < 4; ++k)
        phase[k] = y + (last ? p * 4 + k : (p / channels * 4 + k) * channels + p % channels) * framed() * unit;
      for (int64_t i = 0; i < 2 * height; ++i) {
        const T* from = x + (p * 2 * height + i) * 2 * width * unit;
        T *even = phase[i % 2] + (i / 2 + 1) * row, *odd = phase[2 + i % 2] + (i / 2 + 1) * row;
        if (last) deal(from, even, odd);
        else halve(from, even, odd);
      }
      for (T* to : phase) {
        T* bottom = to + (height + 1) * row;
        if (wraps) std::copy_n(bottom - row, row, to), std::copy_n(to + row, row, bottom);
        else std::fill_n(to, row, T{}), std::fill_n(bottom, row, T{});
      }
    }
  }

  // Sums a row of a phase and its copies in the frame into `sum`.
  void gather(const T* phase, int64_t i, int64_t unit, A* __restrict sum) const {
    const int64_t row = line() * unit;
    const T* __restrict from = phase + (i + 1) * row;
    for (int64_t j = 0; j < row; ++j) sum[j] = get(from[j]);
    if (!wraps) return;
    for (const int64_t other : {i == height - 1 ? int64_t(0) : -1, i == 0 ? height + 1 : -1}) {
      if (other < 0) continue;
      from = phase + other * row;
      for (int64_t j = 0; j < row; ++j) sum[j] += get(from[j]);
    }
    A *__restrict before = sum, *__restrict after = sum + (width + 1) * unit;
    for (int64_t c = 0; c < unit; ++c) sum[width * unit + c] += before[c];
    for (int64_t c = 0; c < unit; ++c) sum[unit + c] += after[c];
  }

  // Interleaves two rows of phases, which start in their frames, into a row of the map.
  template <class From>
  void merge(const From* __restrict even, const From* __restrict odd, T* __restrict to) const {
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes)
      for (int64_t l = 0; l < kLanes; ++l) put(to[2 * (j + l)], get(even[1 + j + l])), put(to[2 * (j + l) + 1], get(odd[1 + j + l]));
    for (; j < width; ++j) put(to[2 * j], get(even[1 + j])), put(to[2 * j + 1], get(odd[1 + j]));
  }

  void join(const T* y, T* x, int threads) const {
    const int64_t unit = last ? channels : 1, row = line() * unit;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<A> sums[2] = {std::vector<A>(row), std::vector<A>(row)};
#pragma omp for schedule(static)
      for (int64_t p = 0; p < batch * (last ? 1 : channels); ++p) {
        const T* phase[4];
        for (int k = 0; k < 4; ++k)
          phase[k] = y + (last ? p * 4 + k : (p / channels * 4 + k) * channels + p % channels) * framed() * unit;
        for (int64_t i = 0; i < 2 * height; ++i) {
          const T *left = phase[i % 2] + (i / 2 + 1) * row, *right = phase[2 + i % 2] + (i / 2 + 1) * row;
          T* __restrict to = x + (p * 2 * height + i) * 2 * width * unit;
          if (!last && (!wraps || (width > 1 && i / 2 > 0 && i / 2 < height - 1))) {
            merge(left, right, to);
            if (!wraps) continue;
            const int64_t end = 2 * width - 2;
            put(to[0], get(left[1]) + get(left[width + 1])), put(to[1], get(right[1]) + get(right[width + 1]));
            put(to[end], get(left[width]) + get(left[0])), put(to[end + 1], get(right[width]) + get(right[0]));
            continue;
          }
          for (int c = 0; c < 2; ++c) gather(phase[i % 2 + 2 * c], i / 2, unit, sums[c].data());
          if (!last) {
            merge(sums[0].data(), sums[1].data(), to);
            continue;
          }
          const A *__restrict even = sums[0].data() + unit, *__restrict odd = sums[1].data() + unit;
          for (int64_t j = 0; j < width; ++j, to += 2 * unit)
            for (int64_t c = 0; c < unit; ++c) put(to[c], even[j * unit + c]), put(to[unit + c], odd[j * unit + c]);
        }
      }
    }
  }
};

// Translation invariant polyphase sampling of maps with even sides: psi = relu(depthwise 3x3 convolution, padded with
// zeros), tau = softmax(scale * means of psi over the quadrants), y = mixture by tau. Works on as many channels of one image
// at a time as a register holds, transposed to channels-last, in a scratch with a margin of zeros that stays in the caches.
template <class T, class A = typename Sum<T>::type>
struct Translation {
  typedef A V __attribute__((vector_size(kBytes), aligned(alignof(A)), may_alias));
  static constexpr int64_t lanes = kBytes / sizeof(A);

  int64_t batch, channels, height, width;  // of the large map
  bool last;

  struct Buffer {  // of vectors; a standard container drops their alignment attributes
    std::vector<A> numbers;
    explicit Buffer(int64_t n) : numbers(n * lanes) {}
    V* at(int64_t i = 0) { return reinterpret_cast<V*>(numbers.data()) + i; }
  };

  int64_t pitch() const { return width + 2; }
  int64_t padded() const { return (height + 2) * pitch(); }
  int64_t parts() const { return (channels + lanes - 1) / lanes; }

  // Copies `count` channels from `first` of an image, interleaved, with a margin of `edge` zeros; and back.
  void load(const T* image, int64_t first, int64_t count, int64_t h, int64_t w, int64_t edge, V* to) const {
    const int64_t line = w + 2 * edge;
    if (edge || count < lanes) std::fill_n(to, (h + 2 * edge) * line, V{});
    for (int64_t i = 0; i < h; ++i) {
      A* row = reinterpret_cast<A*>(to + (i + edge) * line + edge);
      if (last && count == lanes) {
        const T* from = image + i * w * channels + first;
        for (int64_t j = 0; j < w; ++j, from += channels, row += lanes)
          for (int64_t c = 0; c < lanes; ++c) row[c] = get(from[c]);
      } else {
        for (int64_t c = 0; c < count; ++c) {
          const T* from = last ? image + i * w * channels + first + c : image + ((first + c) * h + i) * w;
          for (int64_t j = 0; j < w; ++j) row[j * lanes + c] = get(from[j * (last ? channels : 1)]);
        }
      }
    }
  }
  void store(const V* from, int64_t first, int64_t count, int64_t h, int64_t w, T* image) const {
    for (int64_t i = 0; i < h; ++i) {
      const A* row = reinterpret_cast<const A*>(from + i * w);
      if (last && count == lanes) {
        T* to = image + i * w * channels + first;
        for (int64_t j = 0; j < w; ++j, to += channels, row += lanes)
          for (int64_t c = 0; c < lanes; ++c) put(to[c], row[c]);
      } else {
        for (int64_t c = 0; c < count; ++c) {
          T* to = last ? image + i * w * channels + first + c : image + ((first + c) * h + i) * w;
          for (int64_t j = 0; j < w; ++j) put(to[j * (last ? channels : 1)], row[j * lanes + c]);
        }
      }
    }
  }
  // Arrays with `step` numbers per channel.
  void gather(const A* from, int64_t count, int64_t step, V* to) const {
    for (int64_t k = 0; k < step; ++k)
      for (int64_t c = 0; c < lanes; ++c) to[k][c] = c < count ? from[c * step + k] : A(0);
  }
  void scatter(const V* from, int64_t count, int64_t step, A* to) const {
    for (int64_t k = 0; k < step; ++k)
      for (int64_t c = 0; c < count; ++c) to[c * step + k] = from[k][c];
  }

  static V convolved(const V* a, const V* b, const V* c, const V* w) {
    return w[0] * a[0] + w[1] * a[1] + w[2] * a[2] + w[3] * b[0] + w[4] * b[1] + w[5] * b[2] + w[6] * c[0] + w[7] * c[1] + w[8] * c[2];
  }

  // Computes psi, written to `psi` if given, the quadrants' means, and tau.
  void judge(const V* x, const V* weight, V scale, V* psi, V* means, V* tau) const {
    double total[4][lanes] = {};
    V w[9];
    std::copy_n(weight, 9, w);
    const int64_t h = height / 2, n = width / 2;
    for (int64_t i = 0; i < height; ++i)
      for (int side = 0; side < 2; ++side) {
        const V* a = x + i * pitch() + side * n;
        V sum{};
        for (int64_t j = 0; j < n; ++j, ++a) {
          V v = convolved(a, a + pitch(), a + 2 * pitch(), w);
          v = v < 0 ? V{} : v;  // a NaN stays one
          if (psi) psi[i * width + side * n + j] = v;
          sum += v;
        }
        for (int64_t c = 0; c < lanes; ++c) total[(i < h ? 0 : 2) + side][c] += sum[c];
      }
    for (int64_t c = 0; c < lanes; ++c) {
      A top = -INFINITY, all = 0;
      for (int k = 0; k < 4; ++k) {
        means[k][c] = static_cast<A>(total[k][c] / (h * n));
        top = std::max(top, scale[c] * means[k][c]);
      }
      for (int k = 0; k < 4; ++k) all += tau[k][c] = std::exp(scale[c] * means[k][c] - top);
      for (int k = 0; k < 4; ++k) tau[k][c] /= all;
    }
  }

  void forward(const T* x, const A* weight, const A* scale, T* y, A* tau, T* psi, int threads) const {
    const int64_t area = height * width, half = width / 2;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Buffer plane(padded()), seen(psi ? area : 0), out(area / 4);
      V w[9], s, means[4], t[4];
#pragma omp for schedule(static)
      for (int64_t job = 0; job < batch * parts(); ++job) {
        const int64_t image = job / parts(), first = job % parts() * lanes, count = std::min(lanes, channels - first);
        load(x + image * channels * area, first, count, height, width, 1, plane.at());
        gather(weight + first * 9, count, 9, w);
        gather(scale + first, count, 1, &s);
        judge(plane.at(), w, s, psi ? seen.at() : nullptr, means, t);
        for (int64_t i = 0; i < height / 2; ++i) {
          const V *above = plane.at((2 * i + 1) * pitch() + 1), *below = above + pitch();
          V* row = out.at(i * half);
          for (int64_t j = 0; j < half; ++j)
            row[j] = t[0] * above[2 * j] + t[1] * below[2 * j] + t[2] * above[2 * j + 1] + t[3] * below[2 * j + 1];
        }
        scatter(t, count, 4, tau + (image * channels + first) * 4);
        store(out.at(), first, count, height / 2, half, y + image * channels * area / 4);
        if (psi) store(seen.at(), first, count, height, width, psi + image * channels * area);
      }
    }
  }

  // The gradients `to_tau` and `to_psi` may be null; those of the weights are left per image, (B, C, 10).
  void backward(const T* x, const A* weight, const A* scale, const T* to_y, const A* to_tau, const T* to_psi, T* to_x, A* to_weights, int threads) const {
    const int64_t area = height * width, half = width / 2, h = height / 2;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Buffer plane(padded()), given(area / 4), pulled(to_psi ? area : 0), edge(padded()), out(area);
      V w[9], s, means[4], t[4], total[4], pull[4], found[10], turned[9];
#pragma omp for schedule(static)
      for (int64_t job = 0; job < batch * parts(); ++job) {
        const int64_t image = job / parts(), first = job % parts() * lanes, count = std::min(lanes, channels - first);
        load(x + image * channels * area, first, count, height, width, 1, plane.at());
        load(to_y + image * channels * area / 4, first, count, h, half, 0, given.at());
        if (to_psi) load(to_psi + image * channels * area, first, count, height, width, 0, pulled.at());
        gather(weight + first * 9, count, 9, w);
        gather(scale + first, count, 1, &s);
        judge(plane.at(), w, s, nullptr, means, t);
        std::fill_n(total, 4, V{});
        if (to_tau) gather(to_tau + (image * channels + first) * 4, count, 4, total);
        for (int64_t i = 0; i < h; ++i) {
          const V *above = plane.at((2 * i + 1) * pitch() + 1), *below = above + pitch(), *g = given.at(i * half);
          V sum[4] = {};
          for (int64_t j = 0; j < half; ++j) {
            sum[0] += g[j] * above[2 * j], sum[1] += g[j] * below[2 * j];
            sum[2] += g[j] * above[2 * j + 1], sum[3] += g[j] * below[2 * j + 1];
          }
          for (int k = 0; k < 4; ++k) total[k] += sum[k];
        }
        const V mean = t[0] * total[0] + t[1] * total[1] + t[2] * total[2] + t[3] * total[3];
        std::fill_n(found, 10, V{});
        for (int k = 0; k < 4; ++k) {
          const V step = t[k] * (total[k] - mean);
          found[9] += step * means[k];
          pull[k] = step * s / static_cast<A>(h * half);
        }
        // the gradient before the ReLU, with a margin of zeros, and the gradient of the taps
        std::fill_n(edge.at(), padded(), V{});
        for (int64_t i = 0; i < height; ++i)
          for (int side = 0; side < 2; ++side) {
            const V *a = plane.at(i * pitch() + side * half), *b = a + pitch(), *c = b + pitch(), from = pull[(i < h ? 0 : 2) + side];
            const V* also = to_psi ? pulled.at(i * width + side * half) : nullptr;
            V *to = edge.at((i + 1) * pitch() + 1 + side * half), taps[9] = {};
            for (int64_t j = 0; j < half; ++j, ++a, ++b, ++c) {
              const V v = convolved(a, b, c, w), g = v > 0 ? (also ? from + also[j] : from) : V{};
              to[j] = g;
              taps[0] += g * a[0], taps[1] += g * a[1], taps[2] += g * a[2];
              taps[3] += g * b[0], taps[4] += g * b[1], taps[5] += g * b[2];
              taps[6] += g * c[0], taps[7] += g * c[1], taps[8] += g * c[2];
            }
            for (int k = 0; k < 9; ++k) found[k] += taps[k];
          }
        for (int k = 0; k < 9; ++k) turned[k] = w[8 - k];
        for (int64_t i = 0; i < height; ++i) {
          const V *a = edge.at(i * pitch()), *g = given.at(i / 2 * half), even = t[i % 2], odd = t[2 + i % 2];
          V* to = out.at(i * width);
          for (int64_t j = 0; j < width; ++j, ++a)
            to[j] = convolved(a, a + pitch(), a + 2 * pitch(), turned) + (j % 2 ? odd : even) * g[j / 2];
        }
        scatter(found, count, 10, to_weights + (image * channels + first) * 10);
        store(out.at(), first, count, height, width, to_x + image * channels * area);
      }
    }
  }
};

}  // namespace

extern "C" {

// numbers: batch, channels, height and width of y, whether channels come last, whether they share the weights. `wanted`:
// 0 y, 1 x, 2 the weights, from the other two. Weights are in float, or double where NUMBER is.
void stillpoint_mixture(void* x, void* weight, void* y, const int64_t* numbers, int64_t wanted, int64_t threads) {
  using A = Sum<NUMBER>::type;
  const Mixture<NUMBER> mixture{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4] != 0, numbers[5] != 0};
  mixture.run(wanted, static_cast<NUMBER*>(x), static_cast<A*>(weight), static_cast<NUMBER*>(y), static_cast<int>(threads));
}

// numbers: batch, channels, height and width of a phase, whether channels come last, whether the frame wraps. `adjoint`: x
// from y, the framed phases.
void stillpoint_phases(void* x, void* y, const int64_t* numbers, int64_t adjoint, int64_t threads) {
  const Frames<NUMBER> frames{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4] != 0, numbers[5] != 0};
  NUMBER *map = static_cast<NUMBER*>(x), *phases = static_cast<NUMBER*>(y);
  if (adjoint) frames.join(phases, map, static_cast<int>(threads));
  else frames.split(map, phases, static_cast<int>(threads));
}

// numbers: batch, channels, height and width of x, whether channels come last. weight (C, 9), scale (C), tau (B, C, 4).
void stillpoint_translation(const void* x, const void* weight, const void* scale, void* y, void* tau, void* psi,
                            const int64_t* numbers, int64_t threads) {
  using A = Sum<NUMBER>::type;
  const Translation<NUMBER> sampling{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4] != 0};
  sampling.forward(static_cast<const NUMBER*>(x), static_cast<const A*>(weight), static_cast<const A*>(scale),
                   static_cast<NUMBER*>(y), static_cast<A*>(tau), static_cast<NUMBER*>(psi), static_cast<int>(threads));
}

void stillpoint_translation_backward(const void* x, const void* weight, const void* scale, const void* to_y, const void* to_tau,
                                     const void* to_psi, void* to_x, void* to_weights, const int64_t* numbers, int64_t threads) {
  using A = Sum<NUMBER>::type;
  const Translation<NUMBER> sampling{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4] != 0};
  sampling.backward(static_cast<const NUMBER*>(x), static_cast<const A*>(weight), static_cast<const A*>(scale),
                    static_cast<const NUMBER*>(to_y), static_cast<const A*>(to_tau), static_cast<const NUMBER*>(to_psi),
                    static_cast<NUMBER*>(to_x), static_cast<A*>(to_weights), static_cast<int>(threads));
}

}  // extern "C"
