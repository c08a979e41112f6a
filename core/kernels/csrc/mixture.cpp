// Mixtures of the four phases of feature maps at stride two, and translation invariant polyphase sampling. Called through
// ctypes.
//
// A mixture is the trilinear form sum over images, channels, pixels and phases of weight[k] * x[k's pixel] * y[pixel]; the
// three functions are its derivatives by y, by x and by the weights. Phase k = row + 2 * column.
//
// Maps are (B, C, H, W) packed, channels first or last. Weights are (B, C, 4), or (B, 4) where channels share them.

#include "tables.hpp"

namespace {

constexpr int64_t kLanes = 16;

// Sums of products in lanes that are added in the end: of one phase of each column, of two rows.
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

  // One row of an image whose channels come last; `w` and `sums` are four rows of channels.
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

// Translation invariant polyphase sampling of maps with even sides: psi = relu(depthwise 3x3 convolution, padded with
// zeros), tau = softmax(scale * means of psi over the quadrants), y = mixture by tau. One channel of one image at a time,
// padded into a scratch that stays in the caches; where channels come last, sixteen of them are turned at once.
template <class T, class A = typename Sum<T>::type>
struct Translation {
  int64_t batch, channels, height, width;  // of the large map
  bool last;

  int64_t pitch() const { return width + 2; }
  int64_t padded() const { return (height + 2) * pitch(); }
  int64_t group() const { return last ? std::min(kLanes, channels) : 1; }
  int64_t jobs() const { return batch * ((channels + group() - 1) / group()); }

  // `count` channels from `first` of an image into planes with a margin of `edge` zeros, or back.
  void load(const T* image, int64_t first, int64_t count, int64_t h, int64_t w, int64_t edge, A* planes) const {
    const int64_t line = w + 2 * edge, plane = (h + 2 * edge) * line;
    std::fill_n(planes, count * plane, A(0));
    for (int64_t i = 0; i < h; ++i)
      for (int64_t j = 0; j < (last ? w : 1); ++j) {
        A* to = planes + (i + edge) * line + edge;
        if (last)
          for (int64_t c = 0; c < count; ++c) to[c * plane + j] = get(image[(i * w + j) * channels + first + c]);
        else
          for (int64_t k = 0; k < w; ++k) to[k] = get(image[(first * h + i) * w + k]);
      }
  }
  void store(const A* planes, int64_t first, int64_t count, int64_t h, int64_t w, int64_t edge, T* image) const {
    const int64_t line = w + 2 * edge, plane = (h + 2 * edge) * line;
    for (int64_t i = 0; i < h; ++i)
      for (int64_t j = 0; j < (last ? w : 1); ++j) {
        const A* from = planes + (i + edge) * line + edge;
        if (last)
          for (int64_t c = 0; c < count; ++c) put(image[(i * w + j) * channels + first + c], from[c * plane + j]);
        else
          for (int64_t k = 0; k < w; ++k) put(image[(first * h + i) * w + k], from[k]);
      }
  }

  // A row of the convolution of a padded plane, before the ReLU.
  void convolve(const A* x, const A* w, int64_t i, A* __restrict out) const {
    const A *a = x + i * pitch(), *b = a + pitch(), *c = b + pitch();
    for (int64_t j = 0; j < width; ++j)
      out[j] = w[0] * a[j] + w[1] * a[j + 1] + w[2] * a[j + 2] + w[3] * b[j] + w[4] * b[j + 1] + w[5] * b[j + 2] +
               w[6] * c[j] + w[7] * c[j + 1] + w[8] * c[j + 2];
  }

  static A sum(const A* x, int64_t n) {
    A lane[kLanes] = {}, total = 0;
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes)
      for (int64_t l = 0; l < kLanes; ++l) lane[l] += x[j + l];
    for (; j < n; ++j) lane[0] += x[j];
    for (int64_t l = 0; l < kLanes; ++l) total += lane[l];
    return total;
  }
  static A product(const A* x, const A* y, int64_t n) {
    A lane[kLanes] = {}, total = 0;
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes)
      for (int64_t l = 0; l < kLanes; ++l) lane[l] += x[j + l] * y[j + l];
    for (; j < n; ++j) lane[0] += x[j] * y[j];
    for (int64_t l = 0; l < kLanes; ++l) total += lane[l];
    return total;
  }

  // psi into `psi` (packed, where it is given), the quadrants' means, and tau.
  void judge(const A* x, const A* w, A scale, A* row, A* psi, A* means, A* tau) const {
    double total[4] = {};
    const int64_t h = height / 2, n = width / 2;
    for (int64_t i = 0; i < height; ++i) {
      A* out = psi ? psi + i * width : row;
      convolve(x, w, i, out);
      for (int64_t j = 0; j < width; ++j) out[j] = out[j] > 0 ? out[j] : (out[j] != out[j] ? out[j] : A(0));
      total[i < h ? 0 : 2] += sum(out, n);
      total[i < h ? 1 : 3] += sum(out + n, n);
    }
    A top = -INFINITY, all = 0;
    for (int k = 0; k < 4; ++k) {
      means[k] = static_cast<A>(total[k] / (h * n));
      top = std::max(top, scale * means[k]);
    }
    for (int k = 0; k < 4; ++k) all += tau[k] = std::exp(scale * means[k] - top);
    for (int k = 0; k < 4; ++k) tau[k] /= all;
  }

  void mix(const A* x, const A* tau, A* y) const {
    for (int64_t i = 0; i < height / 2; ++i) {
      const A *above = x + (2 * i + 1) * pitch() + 1, *below = above + pitch();
      A* __restrict out = y + i * (width / 2);
      for (int64_t j = 0; j < width / 2; ++j)
        out[j] = tau[0] * above[2 * j] + tau[1] * below[2 * j] + tau[2] * above[2 * j + 1] + tau[3] * below[2 * j + 1];
    }
  }

  void forward(const T* x, const A* weight, const A* scale, T* y, A* tau, T* psi, int threads) const {
    const int64_t area = height * width, n = group(), parts = (channels + n - 1) / n;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<A> planes(n * padded()), row(width), seen(psi ? n * area : 0), out(n * area / 4);
      A means[4];
#pragma omp for schedule(static)
      for (int64_t job = 0; job < jobs(); ++job) {
        const int64_t image = job / parts, first = job % parts * n, count = std::min(n, channels - first);
        load(x + image * channels * area, first, count, height, width, 1, planes.data());
        for (int64_t c = 0; c < count; ++c) {
          A *plane = &planes[c * padded()], *chosen = tau + (image * channels + first + c) * 4;
          judge(plane, weight + (first + c) * 9, scale[first + c], row.data(), psi ? &seen[c * area] : nullptr, means, chosen);
          mix(plane, chosen, &out[c * area / 4]);
        }
        store(out.data(), first, count, height / 2, width / 2, 0, y + image * channels * area / 4);
        if (psi) store(seen.data(), first, count, height, width, 0, psi + image * channels * area);
      }
    }
  }

  // `to_tau` and `to_psi` are gradients that may be absent; the weights' are added up by image, (B, C, 10).
  void backward(const T* x, const A* weight, const A* scale, const T* to_y, const A* to_tau, const T* to_psi, T* to_x, A* to_weights, int threads) const {
    const int64_t area = height * width, n = group(), parts = (channels + n - 1) / n, half = width / 2;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<A> planes(n * padded()), row(width), given(n * area / 4), pulled(to_psi ? n * area : 0), edge(padded()), out(n * area);
#pragma omp for schedule(static)
      for (int64_t job = 0; job < jobs(); ++job) {
        const int64_t image = job / parts, first = job % parts * n, count = std::min(n, channels - first);
        load(x + image * channels * area, first, count, height, width, 1, planes.data());
        load(to_y + image * channels * area / 4, first, count, height / 2, half, 0, given.data());
        if (to_psi) load(to_psi + image * channels * area, first, count, height, width, 0, pulled.data());
        for (int64_t c = 0; c < count; ++c) {
          const int64_t channel = image * channels + first + c;
          const A *plane = &planes[c * padded()], *w = weight + (first + c) * 9, *gy = &given[c * area / 4];
          A means[4], tau[4], pull[4], *found = to_weights + channel * 10, *gx = &out[c * area];
          judge(plane, w, scale[first + c], row.data(), nullptr, means, tau);
          double total[4] = {}, mean = 0, slope = 0;
          for (int64_t i = 0; i < height / 2; ++i) products<A>(plane + (2 * i + 1) * pitch() + 1, pitch(), gy + i * half, half, total);
          for (int k = 0; k < 4; ++k) mean += tau[k] * (total[k] += to_tau ? to_tau[channel * 4 + k] : A(0));
          for (int k = 0; k < 4; ++k) {
            const double step = tau[k] * (total[k] - mean);
            slope += step * means[k];
            pull[k] = static_cast<A>(step * scale[first + c] / (height / 2 * half));
          }
          found[9] = static_cast<A>(slope);
          // the gradient before the ReLU, with a margin of zeros
          std::fill(edge.begin(), edge.end(), A(0));
          double taps[9] = {};
          for (int64_t i = 0; i < height; ++i) {
            A* g = &edge[(i + 1) * pitch() + 1];
            convolve(plane, w, i, row.data());
            const A left = pull[i < height / 2 ? 0 : 2], right = pull[i < height / 2 ? 1 : 3], *also = to_psi ? &pulled[c * area + i * width] : nullptr;
            for (int64_t j = 0; j < half; ++j) g[j] = row[j] > 0 ? left + (also ? also[j] : A(0)) : A(0);
            for (int64_t j = half; j < width; ++j) g[j] = row[j] > 0 ? right + (also ? also[j] : A(0)) : A(0);
            for (int t = 0; t < 9; ++t) taps[t] += product(plane + (i + t / 3) * pitch() + t % 3, g, width);
          }
          for (int t = 0; t < 9; ++t) found[t] = static_cast<A>(taps[t]);
          A turned[9];
          for (int t = 0; t < 9; ++t) turned[t] = w[8 - t];
          for (int64_t i = 0; i < height; ++i) {
            A* __restrict to = gx + i * width;
            convolve(edge.data(), turned, i, to);
            const A *from = gy + i / 2 * half, even = tau[i % 2], odd = tau[2 + i % 2];
            for (int64_t j = 0; j < half; ++j) to[2 * j] += even * from[j], to[2 * j + 1] += odd * from[j];
          }
        }
        store(out.data(), first, count, height, width, 0, to_x + image * channels * area);
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
