// Maxima of K x K windows at stride one, K 2 or 3, of maps with channels last or of one channel. Called through ctypes.
//
// The backward pass finds each window's maximum again, so that no index is stored, and adds up the gradients of the
// windows whose maximum is a pixel. As in PyTorch, the first of equal numbers in row order is the maximum, and a NaN beats
// all numbers. Sums are in float, or double where NUMBER is, in the order of the windows.

#include "tables.hpp"

namespace {

enum Outside { kIgnored, kAround, kZero };

// Calls `call` with the number of a window's pixels as a constant. Callees copy their pointers one by one: arrays filled by
// std::copy_n stay in memory, and then the loop is not vectorised.
template <class Call>
void counted(int count, const Call& call) {
  switch (count) {
    case 1: return call(std::integral_constant<int, 1>());
    case 2: return call(std::integral_constant<int, 2>());
    case 3: return call(std::integral_constant<int, 3>());
    case 4: return call(std::integral_constant<int, 4>());
    case 6: return call(std::integral_constant<int, 6>());
    default: return call(std::integral_constant<int, 9>());
  }
}

// v, or zero; by bits, because a conditional becomes a branch, which prevents vectorisation.
template <class A>
inline A taken(A v, bool take) {
  std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t> word;
  std::memcpy(&word, &v, sizeof v);
  word &= -static_cast<decltype(word)>(take);
  std::memcpy(&v, &word, sizeof v);
  return v;
}

template <class T>
struct Pool {
  using A = typename Sum<T>::type;
  int64_t size, batch, channels, height, width, before, outside;
  int64_t rows, columns;  // of the result; a window begins `before` pixels before the pixel of its result

  // The pixel at position i of an axis of n; -1 for a zero, -2 for none.
  int64_t place(int64_t i, int64_t n) const {
    if (i >= 0 && i < n) return i;
    return outside == kAround ? ((i % n) + n) % n : outside == kZero ? -1 : -2;
  }

  // The pixels of a window, in order: their offsets in an image, -1 for a zero, and their positions in the window.
  int window(int64_t row, int64_t column, int64_t* at, int32_t* code) const {
    int count = 0;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t r = place(row - before + i, height);
      if (r == -2) continue;
      for (int64_t j = 0; j < size; ++j) {
        const int64_t c = place(column - before + j, width);
        if (c == -2) continue;
        at[count] = r < 0 || c < 0 ? -1 : (r * width + c) * channels;
        code[count++] = static_cast<int32_t>(i * size + j);
      }
    }
    return count;
  }

  // The windows of a pixel, in order: the offsets of their results, and the pixel's positions in them.
  int windows(int64_t row, int64_t column, int64_t* at, int32_t* code) const {
    int count = 0;
    for (int64_t i = size - 1; i >= 0; --i) {
      const int64_t r = result(row + before - i, rows);
      for (int64_t j = size - 1; r >= 0 && j >= 0; --j) {
        const int64_t c = result(column + before - j, columns);
        if (c < 0) continue;
        at[count] = (r * columns + c) * channels;
        code[count++] = static_cast<int32_t>(i * size + j);
      }
    }
    return count;
  }
  int64_t result(int64_t i, int64_t n) const {
    if (i >= 0 && i < n) return i;
    return outside == kAround ? ((i % n) + n) % n : -1;
  }

  // Calls `run(first, count)` for runs of pixels of a row of n: [low, high), which are computed alike, as one run, and every
  // other pixel alone.
  template <class Run>
  static void runs(int64_t n, int64_t low, int64_t high, const Run& run) {
    for (int64_t i = 0; i < n;) {
      const int64_t count = i >= low && i < high ? std::min(n, high) - i : 1;
      run(i, count);
      i += count;
    }
  }

  static void largest(const T* const* from, int count, int64_t n, T* __restrict y) {
    counted(count, [&](auto number) {
      constexpr int N = decltype(number)::value;
      const T* p[N];
      for (int k = 0; k < N; ++k) p[k] = from[k];
#pragma GCC ivdep
      for (int64_t c = 0; c < n; ++c) {
        T best = p[0][c];
        A most = get(best);
        for (int k = 1; k < N; ++k) {
          const T value = p[k][c];
          const A v = get(value);
          const bool up = v > most || v != v;
          most = up ? v : most;
          if constexpr (std::is_same_v<T, A>) best = most;
          else best.bits = up ? value.bits : best.bits;
        }
        y[c] = best;
      }
    });
  }

  static void which(const T* const* from, const int32_t* code, int count, int64_t n, int32_t* __restrict to) {
    counted(count, [&](auto number) {
      constexpr int N = decltype(number)::value;
      const T* p[N];
      int32_t place[N];
      for (int k = 0; k < N; ++k) p[k] = from[k], place[k] = code[k];
#pragma GCC ivdep
      for (int64_t c = 0; c < n; ++c) {
        A most = get(p[0][c]);
        int32_t first = place[0];
        for (int k = 1; k < N; ++k) {
          const A v = get(p[k][c]);
          const bool up = v > most || v != v;
          most = up ? v : most, first = up ? place[k] : first;
        }
        to[c] = first;
      }
    });
  }

  static void total(const T* const* grads, const int32_t* const* firsts, const int32_t* code, int count, int64_t n, T* __restrict to) {
    counted(count, [&](auto number) {
      constexpr int N = decltype(number)::value;
      const T* g[N];
      const int32_t* f[N];
      int32_t place[N];
      for (int k = 0; k < N; ++k) g[k] = grads[k], f[k] = firsts[k], place[k] = code[k];
#pragma GCC ivdep
      for (int64_t c = 0; c < n; ++c) {
        A sum = 0;
        for (int k = 0; k < N; ++k) sum += taken(get(g[k][c]), f[k][c] == place[k]);
        put(to[c], sum);
      }
    });
  }

  // Calls `call(pixels, positions in the window, their number, offset of the results, count of numbers)` for an image.
  template <class Call>
  void each(const T* image, const T* zeros, const Call& call) const {
    int64_t at[9];
    int32_t code[9];
    const T* from[9];
    for (int64_t row = 0; row < rows; ++row)
      runs(columns, before, width - size + before + 1, [&](int64_t column, int64_t n) {
        const int count = window(row, column, at, code);
        for (int k = 0; k < count; ++k) from[k] = at[k] < 0 ? zeros : image + at[k];
        call(from, code, count, (row * columns + column) * channels, n * channels);
      });
  }

  void forward(const T* x, T* y, int threads) const {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const std::vector<T> zeros(width * channels);
#pragma omp for schedule(static)
      for (int64_t b = 0; b < batch; ++b) {
        T* out = y + b * rows * columns * channels;
        each(x + b * height * width * channels, zeros.data(), [&](auto from, auto, int count, int64_t at, int64_t n) {
          largest(from, count, n, out + at);
        });
      }
    }
  }

  void backward(const T* x, const T* grad, T* to_x, int threads) const {
    const int64_t results = rows * columns * channels;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const std::vector<T> zeros(width * channels);
      std::vector<int32_t> firsts(results);
      int64_t at[9];
      int32_t code[9];
      const T* grads[9];
      const int32_t* own[9];
#pragma omp for schedule(static)
      for (int64_t b = 0; b < batch; ++b) {
        each(x + b * height * width * channels, zeros.data(), [&](auto from, auto places, int count, int64_t to, int64_t n) {
          which(from, places, count, n, firsts.data() + to);
        });
        for (int64_t row = 0; row < height; ++row)
          runs(width, size - 1 - before, columns - before, [&](int64_t column, int64_t n) {
            const int count = windows(row, column, at, code);
            T* out = to_x + ((b * height + row) * width + column) * channels;
            for (int k = 0; k < count; ++k) grads[k] = grad + b * results + at[k], own[k] = firsts.data() + at[k];
            total(grads, own, code, count, n * channels, out);
          });
      }
    }
  }
};

template <class T>
Pool<T> pool(const int64_t* n) {
  return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]};
}

}  // namespace

extern "C" {

// numbers: side of the window, batch, channels, height, width, pixels before a result's own, the code of what is outside,
// and the height and width of the result. The sides of a map are at least the window's.
void stillpoint_max_pool(const void* x, void* y, const int64_t* numbers, int64_t threads) {
  pool<NUMBER>(numbers).forward(static_cast<const NUMBER*>(x), static_cast<NUMBER*>(y), static_cast<int>(threads));
}

void stillpoint_max_pool_backward(const void* x, const void* grad, void* to_x, const int64_t* numbers, int64_t threads) {
  pool<NUMBER>(numbers).backward(static_cast<const NUMBER*>(x), static_cast<const NUMBER*>(grad), static_cast<NUMBER*>(to_x),
                                 static_cast<int>(threads));
}

}  // extern "C"
