// Layer norms over the channels of feature maps (B, C, P), P pixels, packed, channels first or last. Called through ctypes.
//
// y = (x - mean) * scale * weight + bias, mean over the channels of each pixel, and scale = 1 / sqrt(variance + eps), one for
// each pixel or for each image. Sums over channels are in float, or double where NUMBER is, and do not depend on where a
// pixel is; sums over pixels are in double. So a circular shift of a map moves its result up to rounding in double.

#include "tables.hpp"

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 1 << 16;  // numbers that stay in the caches while all passes work on them

template <class A>
A total(A* lane) {  // by halves: a chain of four additions instead of sixteen
#ifdef __AVX512F__
  if constexpr (std::is_same_v<A, float>) return _mm512_reduce_add_ps(_mm512_loadu_ps(lane));
#endif
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

template <class T, class A = typename Sum<T>::type>
struct Norm {
  static constexpr int64_t kWide = kLanes / Many<A>::count;  // registers for all lanes

  int64_t batch, channels, pixels;
  bool last, whole;  // channels last; one divisor per image
  double eps;

  A inverse(double mean) const { return static_cast<A>(1 / std::sqrt(mean + eps)); }

  // The means of `n` pixels and the sums of squares around them. For channels-first maps `x` points to the first pixel.
  void measure(const T* x, int64_t n, A* __restrict mean, A* __restrict squares) const {
    if (last) {
      for (int64_t i = 0; i < n; ++i, x += channels) {
        A lane[kLanes] = {};
        const int64_t even = channels - channels % kLanes;
        const auto sum = [&](A m, auto term) {
          if constexpr (std::is_same_v<T, A>) {  // in registers, where compilers do not keep arrays
            Vector<A> found[kWide] = {};
            for (int64_t c = 0; c < even; c += kLanes)
              for (int64_t k = 0; k < kWide; ++k) found[k] += term(load<Vector<A>>(x + c + k * Many<A>::count) - m);
            std::memcpy(lane, found, sizeof lane);
          } else {
            std::fill_n(lane, kLanes, A(0));
            for (int64_t c = 0; c < even; c += kLanes)
              for (int64_t l = 0; l < kLanes; ++l) lane[l] += term(get(x[c + l]) - m);
          }
          for (int64_t l = 0; even + l < channels; ++l) lane[l] += term(get(x[even + l]) - m);
          return total(lane);
        };
        const A m = sum(A(0), [](auto v) { return v; }) / static_cast<A>(channels);
        mean[i] = m, squares[i] = sum(m, [](auto v) { return v * v; });
      }
      return;
    }
    std::fill_n(mean, n, A(0)), std::fill_n(squares, n, A(0));
    for (int64_t c = 0; c < channels; ++c) {
      const T* __restrict row = x + c * pixels;
      for (int64_t i = 0; i < n; ++i) mean[i] += get(row[i]);
    }
    for (int64_t i = 0; i < n; ++i) mean[i] /= static_cast<A>(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const T* __restrict row = x + c * pixels;
      for (int64_t i = 0; i < n; ++i) squares[i] += (get(row[i]) - mean[i]) * (get(row[i]) - mean[i]);
    }
  }

  void apply(const T* x, const A* __restrict weight, const A* __restrict bias, int64_t n, const A* __restrict mean, const A* scale, T* y, bool past) const {
    if (last) {
      for (int64_t i = 0; i < n; ++i) {
        const T* __restrict from = x + i * channels;
        T* __restrict to = y + i * channels;
        const A m = mean[i], s = scale[whole ? 0 : i];
        if constexpr (std::is_same_v<T, A>) {
          if (past) {
            for (int64_t c = 0; c < channels; c += Many<T>::count)
              store(to + c, (load<Vector<T>>(from + c) - m) * (s * load<Vector<T>>(weight + c)) + load<Vector<T>>(bias + c), true);
            continue;
          }
        }
        for (int64_t c = 0; c < channels; ++c) put(to[c], (get(from[c]) - m) * (s * weight[c]) + bias[c]);
      }
      return;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const T* __restrict from = x + c * pixels;
      T* __restrict to = y + c * pixels;
      const A w = weight[c], b = bias[c], s = scale[0] * w;
      if (whole) for (int64_t i = 0; i < n; ++i) put(to[i], (get(from[i]) - mean[i]) * s + b);
      else for (int64_t i = 0; i < n; ++i) put(to[i], (get(from[i]) - mean[i]) * (scale[i] * w) + b);
    }
  }

  int64_t block() const { return std::min(pixels, std::max<int64_t>(kBlock / channels, 4 * kLanes)); }
  int64_t at(int64_t pixel) const { return last ? pixel * channels : pixel; }

  // mean is (B, P), scale (B) or (B, P); null if no derivative will need them.
  void forward(const T* x, const A* weight, const A* bias, T* y, A* mean, A* scale, int threads) const {
    const double count = static_cast<double>(channels) * static_cast<double>(pixels);
    // store past the caches, in whole cache lines, where results would not stay in them
    const bool past = std::is_same_v<T, A> && last && batch * channels * pixels * sizeof(T) >= kLarge &&
                      channels * sizeof(T) % 64 == 0 && reinterpret_cast<std::uintptr_t>(y) % 64 == 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const int64_t block = this->block();
      std::vector<A> squares(block), spare(mean ? 0 : 2 * pixels);
#pragma omp for schedule(static)
      for (int64_t b = 0; b < batch; ++b) {
        const T* image = x + b * channels * pixels;
        T* out = y + b * channels * pixels;
        A* means = mean ? mean + b * pixels : spare.data();
        A* scales = mean ? scale + (whole ? b : b * pixels) : spare.data() + pixels;
        double total = 0;
        for (int64_t first = 0; first < pixels; first += block) {
          const int64_t n = std::min(block, pixels - first);
          measure(image + at(first), n, means + first, squares.data());
          if (whole) {
            for (int64_t i = 0; i < n; ++i) total += squares[i];
          } else {
            for (int64_t i = 0; i < n; ++i) scales[first + i] = inverse(squares[i] / static_cast<double>(channels));
            apply(image + at(first), weight, bias, n, means + first, scales + first, out + at(first), past);
          }
        }
        if (!whole) continue;
        scales[0] = inverse(total / count);
        for (int64_t first = 0; first < pixels; first += block)
          apply(image + at(first), weight, bias, std::min(block, pixels - first), means + first, scales, out + at(first), past);
      }
      if (past) stores_done();
    }
  }

  // For `n` pixels: the means over channels of gradient * weight, and the sums of its products with the centred values.
  // Adds the gradients of weight and bias to `sums`, two rows of channels.
  void gather(const T* x, const T* grad, const A* __restrict weight, int64_t n, const A* __restrict mean, const A* scale, A* __restrict drift, A* __restrict product, double* sums, A* spare) const {
    const A part = 1 / static_cast<A>(channels);
    if (last) {
      A *__restrict slope = spare, *__restrict shift = spare + channels;
      std::fill_n(spare, 2 * channels, A(0));
      for (int64_t i = 0; i < n; ++i) {
        const T *__restrict value = x + i * channels, *__restrict seed = grad + i * channels;
        const A m = mean[i], s = scale[whole ? 0 : i];
        A lane[kLanes] = {}, other[kLanes] = {};
        int64_t c = 0;
        for (; c + kLanes <= channels; c += kLanes)
          for (int64_t l = 0; l < kLanes; ++l) {
            const A g = get(seed[c + l]), centred = get(value[c + l]) - m;
            lane[l] += g * weight[c + l], other[l] += g * weight[c + l] * centred;
            slope[c + l] += g * centred * s, shift[c + l] += g;
          }
        for (; c < channels; ++c) {
          const A g = get(seed[c]), centred = get(value[c]) - m;
          lane[0] += g * weight[c], other[0] += g * weight[c] * centred;
          slope[c] += g * centred * s, shift[c] += g;
        }
        drift[i] = total(lane) * part, product[i] = total(other);
      }
      for (int64_t c = 0; c < 2 * channels; ++c) sums[c] += spare[c];
      return;
    }
    std::fill_n(drift, n, A(0)), std::fill_n(product, n, A(0));
    for (int64_t c = 0; c < channels; ++c) {
      const T *__restrict value = x + c * pixels, *__restrict seed = grad + c * pixels;
      const A w = weight[c];
      A slope[kLanes] = {}, shift[kLanes] = {};
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes)
        for (int64_t l = 0; l < kLanes; ++l) {
          const A g = get(seed[i + l]), moved = g * (get(value[i + l]) - mean[i + l]);
          drift[i + l] += g * w, product[i + l] += moved * w;
          slope[l] += whole ? moved : moved * scale[i + l], shift[l] += g;
        }
      for (; i < n; ++i) {
        const A g = get(seed[i]), moved = g * (get(value[i]) - mean[i]);
        drift[i] += g * w, product[i] += moved * w;
        slope[0] += whole ? moved : moved * scale[i], shift[0] += g;
      }
      double first = 0, second = 0;
      for (int64_t l = 0; l < kLanes; ++l) first += slope[l], second += shift[l];
      sums[c] += whole ? first * scale[0] : first, sums[channels + c] += second;
    }
    for (int64_t i = 0; i < n; ++i) drift[i] *= part;
  }

  // scale * (grad * weight - drift) - pull * (x - mean), with scale and pull of the pixel or the image.
  void spread(const T* x, const T* grad, const A* __restrict weight, int64_t n, const A* __restrict mean, const A* scale, const A* __restrict drift, const A* pull, T* out) const {
    if (last) {
      for (int64_t i = 0; i < n; ++i) {
        const T *__restrict value = x + i * channels, *__restrict seed = grad + i * channels;
        T* __restrict to = out + i * channels;
        const A m = mean[i], s = scale[whole ? 0 : i], d = drift[i], p = pull[whole ? 0 : i];
        for (int64_t c = 0; c < channels; ++c) put(to[c], s * (get(seed[c]) * weight[c] - d) - p * (get(value[c]) - m));
      }
      return;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const T *__restrict value = x + c * pixels, *__restrict seed = grad + c * pixels;
      T* __restrict to = out + c * pixels;
      const A w = weight[c], s = scale[0], p = pull[0];
      if (whole) for (int64_t i = 0; i < n; ++i) put(to[i], s * (get(seed[i]) * w - drift[i]) - p * (get(value[i]) - mean[i]));
      else for (int64_t i = 0; i < n; ++i) put(to[i], scale[i] * (get(seed[i]) * w - drift[i]) - pull[i] * (get(value[i]) - mean[i]));
    }
  }

  // The gradients of weight and bias are left per image, (B, 2, C).
  void backward(const T* x, const T* grad, const A* weight, const A* mean, const A* scale, T* to_x, A* to_weights, int threads) const {
    const double count = static_cast<double>(channels) * static_cast<double>(pixels);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const int64_t block = this->block();
      std::vector<A> drift(pixels), product(block), spare(2 * channels);
      std::vector<double> sums(2 * channels);
#pragma omp for schedule(static)
      for (int64_t b = 0; b < batch; ++b) {
        const T *image = x + b * channels * pixels, *seed = grad + b * channels * pixels;
        T* out = to_x + b * channels * pixels;
        const A *means = mean + b * pixels, *scales = scale + (whole ? b : b * pixels);
        std::fill(sums.begin(), sums.end(), 0.0);
        double total = 0;
        for (int64_t first = 0; first < pixels; first += block) {
          const int64_t n = std::min(block, pixels - first), from = at(first);
          const A* own = scales + (whole ? 0 : first);
          gather(image + from, seed + from, weight, n, means + first, own, drift.data() + first, product.data(), sums.data(), spare.data());
          if (whole) {
            for (int64_t i = 0; i < n; ++i) total += product[i];
          } else {
            for (int64_t i = 0; i < n; ++i) product[i] *= own[i] * own[i] * own[i] / static_cast<A>(channels);
            spread(image + from, seed + from, weight, n, means + first, own, drift.data() + first, product.data(), out + from);
          }
        }
        for (int64_t c = 0; c < 2 * channels; ++c) to_weights[b * 2 * channels + c] = static_cast<A>(sums[c]);
        if (!whole) continue;
        const double s = scales[0];
        const A pull = static_cast<A>(s * s * s * total / count);
        for (int64_t first = 0; first < pixels; first += block) {
          const int64_t from = at(first);
          spread(image + from, seed + from, weight, std::min(block, pixels - first), means + first, scales, drift.data() + first, &pull, out + from);
        }
      }
    }
  }
};

}  // namespace

extern "C" {

// last: whether channels come last; whole: whether an image has one divisor. mean (B, P) and scale (B) or (B, P) are both
// null or both given, weights and these in float, or double where NUMBER is.
void stillpoint_channel_norm(const void* x, const void* weight, const void* bias, void* y, void* mean, void* scale, int64_t batch,
                             int64_t channels, int64_t pixels, int64_t last, int64_t whole, double eps, int64_t threads) {
  using A = Sum<NUMBER>::type;
  const Norm<NUMBER> norm{batch, channels, pixels, last != 0, whole != 0, eps};
  norm.forward(static_cast<const NUMBER*>(x), static_cast<const A*>(weight), static_cast<const A*>(bias), static_cast<NUMBER*>(y),
               static_cast<A*>(mean), static_cast<A*>(scale), static_cast<int>(threads));
}

void stillpoint_channel_norm_backward(const void* x, const void* grad, const void* weight, const void* mean, const void* scale, void* to_x,
                                      void* to_weights, int64_t batch, int64_t channels, int64_t pixels, int64_t last,
                                      int64_t whole, double eps, int64_t threads) {
  using A = Sum<NUMBER>::type;
  const Norm<NUMBER> norm{batch, channels, pixels, last != 0, whole != 0, eps};
  norm.backward(static_cast<const NUMBER*>(x), static_cast<const NUMBER*>(grad), static_cast<const A*>(weight), static_cast<const A*>(mean),
                static_cast<const A*>(scale), static_cast<NUMBER*>(to_x), static_cast<A*>(to_weights), static_cast<int>(threads));
}

}  // extern "C"
