// c0 + c1 x + c2 x^2 of each channel of maps (B, C, P), P pixels, packed, channels first or last, and its derivatives, each in
// one pass. Called through ctypes.
//
// Gradients of the coefficients are summed in NUMBER over a block of pixels, in double over blocks, and left per image, so
// that they do not depend on the number of threads.

#include "tables.hpp"

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 64;  // pixels, channels last

template <class T>
struct Quadratic {
  int64_t batch, channels, pixels;
  bool last;

  void forward(const T* x, const T* c0, const T* c1, const T* c2, T* y, int threads) const {
    const int64_t rows = last ? pixels : channels, length = last ? channels : pixels;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t r = 0; r < rows; ++r) {
        const T* __restrict from = x + (b * rows + r) * length;
        T* __restrict to = y + (b * rows + r) * length;
        if (last) {
          pixel(from, c0, c1, c2, to);
        } else {
          const T k0 = c0[r], k1 = c1[r], k2 = c2[r];
          for (int64_t i = 0; i < length; ++i) to[i] = k0 + from[i] * (k1 + k2 * from[i]);
        }
      }
  }

  // `sums` are (B, 3, C): of the gradient, and of its products with x and its square.
  void backward(const T* x, const T* grad, const T* c1, const T* c2, T* to_x, double* sums, int threads) const {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t at = b * channels * pixels;
      double* own = sums + b * 3 * channels;
      std::fill_n(own, 3 * channels, 0.0);
      if (last) pixelwise(x + at, grad + at, c1, c2, to_x + at, own);
      else
        for (int64_t c = 0; c < channels; ++c)
          channel(x + at + c * pixels, grad + at + c * pixels, c1[c], c2[c], to_x + at + c * pixels, own + c);
    }
  }

  void channel(const T* __restrict x, const T* __restrict grad, T c1, T c2, T* __restrict to_x, double* sums) const {
    for (int64_t first = 0; first < pixels; first += kBlock * kLanes) {
      const int64_t end = std::min(pixels, first + kBlock * kLanes), even = end - (end - first) % kLanes;
      T lane[3][kLanes] = {};
      for (int64_t i = first; i < even; i += kLanes)
        for (int64_t l = 0; l < kLanes; ++l) {
          const T v = x[i + l], g = grad[i + l], gv = g * v;
          to_x[i + l] = g * c1 + 2 * c2 * gv;
          lane[0][l] += g, lane[1][l] += gv, lane[2][l] += gv * v;
        }
      for (int64_t i = even; i < end; ++i) {
        const T v = x[i], g = grad[i], gv = g * v;
        to_x[i] = g * c1 + 2 * c2 * gv;
        lane[0][0] += g, lane[1][0] += gv, lane[2][0] += gv * v;
      }
      for (int64_t k = 0; k < 3; ++k)
        for (int64_t l = 0; l < kLanes; ++l) sums[k * channels] += lane[k][l];
    }
  }

  // Separate functions, so that the compiler knows that their arguments do not overlap.
  void pixel(const T* __restrict x, const T* __restrict c0, const T* __restrict c1, const T* __restrict c2, T* __restrict y) const {
    for (int64_t c = 0; c < channels; ++c) y[c] = c0[c] + x[c] * (c1[c] + c2[c] * x[c]);
  }

  void pixel_back(const T* __restrict x, const T* __restrict grad, const T* __restrict c1, const T* __restrict c2, T* __restrict to_x,
                  T* __restrict s0, T* __restrict s1, T* __restrict s2) const {
    for (int64_t c = 0; c < channels; ++c) {
      const T g = grad[c], gv = g * x[c];
      to_x[c] = g * c1[c] + 2 * c2[c] * gv;
      s0[c] += g, s1[c] += gv, s2[c] += gv * x[c];
    }
  }

  void pixelwise(const T* x, const T* grad, const T* c1, const T* c2, T* to_x, double* __restrict sums) const {
    std::vector<T> block(3 * channels);
    T *s0 = block.data(), *s1 = s0 + channels, *s2 = s1 + channels;
    for (int64_t first = 0; first < pixels; first += kBlock) {
      std::fill(block.begin(), block.end(), T(0));
      for (int64_t p = first; p < std::min(pixels, first + kBlock); ++p)
        pixel_back(x + p * channels, grad + p * channels, c1, c2, to_x + p * channels, s0, s1, s2);
      for (int64_t c = 0; c < 3 * channels; ++c) sums[c] += block[c];
    }
  }
};

}  // namespace

extern "C" {

// coefficients (3, C); last: whether channels come last.
void stillpoint_quadratic(const void* x, const void* coefficients, void* y, int64_t batch, int64_t channels, int64_t pixels,
                          int64_t last, int64_t threads) {
  const auto* c = static_cast<const NUMBER*>(coefficients);
  const Quadratic<NUMBER> quadratic{batch, channels, pixels, last != 0};
  quadratic.forward(static_cast<const NUMBER*>(x), c, c + channels, c + 2 * channels, static_cast<NUMBER*>(y), static_cast<int>(threads));
}

void stillpoint_quadratic_backward(const void* x, const void* grad, const void* coefficients, void* to_x, void* sums, int64_t batch,
                                   int64_t channels, int64_t pixels, int64_t last, int64_t threads) {
  const auto* c = static_cast<const NUMBER*>(coefficients);
  const Quadratic<NUMBER> quadratic{batch, channels, pixels, last != 0};
  quadratic.backward(static_cast<const NUMBER*>(x), static_cast<const NUMBER*>(grad), c + channels, c + 2 * channels,
                     static_cast<NUMBER*>(to_x), static_cast<double*>(sums), static_cast<int>(threads));
}

}  // extern "C"
