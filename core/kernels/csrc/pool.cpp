// Blur, subsample and choose the grid of feature maps on the CPU, without a padded copy. Called through ctypes.
//
// Every pass, forward or backward, along rows or columns, is one primitive: a weighted sum of a few arrays, added in
// the order of the taps. A map is computed one output row at a time: first down the columns, then across, so that
// intermediate results stay in the first-level cache. A table per axis says which input contributes to which output by
// which tap; padding, cropping, the phase and the wrap of odd sizes are in the tables and nowhere else, and the backward
// pass is the same code with the tables transposed.
//
// Compiled without contraction to fused multiply-adds, so that a pixel's sum is the same bits at every position; once for
// each NUMBER (float, double, BFloat16) in use.

#include "adaptive_blur.hpp"
#include "passes.hpp"

namespace {

template <class A>
bool exceeds(A a, A b) {  // NaN is the largest, as in torch.argmax and torch.argmin
  return (std::isnan(a) && !std::isnan(b)) || a > b;
}

template <class A>
inline void measure(A& total, A v, int64_t criterion) {
  switch (criterion) {
    case kL2: case kL2Min: total += v * v; return;
    case kL1: case kL1Min: total += std::abs(v); return;
    case kLInfty: v = std::abs(v); [[fallthrough]];
    default: total = (v > total || v != v) ? v : total;
  }
}

template <int CRITERION, class A, class From>
void measure_planes(const From* __restrict values, A* __restrict pixels, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) measure(pixels[i], A(get(values[i])), CRITERION);
}

// All channels of each pixel, in sixteen sums that are added at the end: the same order for every pixel.
template <int CRITERION, class A, class From>
void measure_lanes(const From* values, A* pixels, int64_t n, int64_t channels) {
  const A empty = CRITERION == kMax ? -INFINITY : 0;
  for (int64_t i = 0; i < n; ++i, values += channels) {
    A lanes[16];
    std::fill_n(lanes, 16, empty);
    int64_t c = 0;
    for (; c + 16 <= channels; c += 16)
      for (int64_t k = 0; k < 16; ++k) measure(lanes[k], A(get(values[c + k])), CRITERION);
    for (int64_t k = 0; c + k < channels; ++k) measure(lanes[k], A(get(values[c + k])), CRITERION);
    A total = lanes[0];
    for (int64_t k = 1; k < 16; ++k) {
      if (CRITERION == kMax || CRITERION == kLInfty) measure(total, lanes[k], kMax);
      else total += lanes[k];
    }
    pixels[i] = total;
  }
}

template <class A, class From>
void measure_row(const From* values, A* pixels, int64_t n, int64_t channels, bool last, int64_t criterion) {
#define CASE(C) case C: return last ? measure_lanes<C>(values, pixels, n, channels) : measure_planes<C>(values, pixels, n)
  switch (criterion) {
    CASE(kL2);
    CASE(kL1);
    CASE(kLInfty);
    CASE(kMax);
    case kL2Min: return measure_row(values, pixels, n, channels, last, kL2);
    default: return measure_row(values, pixels, n, channels, last, kL1);
  }
#undef CASE
}

// The range of accurate sums of squares, and the powers of two that scale others into it: exact, except for numbers that are
// negligible beside an image's largest.
template <class A>
struct Range;
template <>
struct Range<float> {
  static constexpr float least = 0x1p-80f, most = 0x1p90f, up = 0x1p80f, down = 0x1p-80f;
};
template <>
struct Range<double> {
  static constexpr double least = 0x1p-800, most = 0x1p900, up = 0x1p700, down = 0x1p-700;
};

// The criterion's value of every pixel, over all channels, for the image times `scale`.
template <class T, class A>
void measure_image(const T* image, const Pass<A>& blur, int64_t criterion, A scale, A* scratch, A* row, A* pixels) {
  const int64_t height = blur.height_out(), width = blur.width_out(), lanes = blur.lanes();
  const auto scaled = [&](const auto* values, int64_t n) {
    for (int64_t i = 0; i < n; ++i) row[i] = scale * A(get(values[i]));
  };
  std::fill_n(pixels, height * width, criterion == kMax ? A(-INFINITY) : A(0));
  for (int64_t c = 0; c < (blur.last ? 1 : blur.channels); ++c, image += blur.height() * blur.width()) {
    if (blur.taps.size == 1 && scale == 1) {
      measure_row(image, pixels, height * width, blur.channels, blur.last, criterion);
      continue;
    }
    for (int64_t y = 0; y < height; y += blur.block()) {
      const int64_t end = std::min(height, y + blur.block()), n = (end - y) * width;
      if (blur.taps.size == 1) {
        scaled(image + y * width * lanes, n * lanes);
      } else {
        blur(image, row, y, end, 0, 0, scratch);
        if (scale != 1) scaled(row, n * lanes);
      }
      measure_row(row, pixels + y * width, n, blur.channels, blur.last, criterion);
    }
  }
}

// The phase of one image. `blur` has stride one, `down` and `right` have the strides; pixels are summed in double.
template <class T, class A>
int64_t choose(const T* image, const Pass<A>& blur, const Axis& down, const Axis& right, int64_t criterion, A* scratch, A* row, A* pixels) {
  const int64_t height = blur.height_out(), width = blur.width_out();
  const bool extreme = criterion == kLInfty || criterion == kMax;
  measure_image<T, A>(image, blur, criterion, 1, scratch, row, pixels);
  if (!extreme && height * width) {
    A largest = 0;
    for (int64_t i = 0; i < height * width; ++i) largest = std::max(largest, pixels[i]);  // skips NaNs
    if (largest > Range<A>::most) measure_image<T, A>(image, blur, criterion, Range<A>::down, scratch, row, pixels);
    if (largest < Range<A>::least) measure_image<T, A>(image, blur, criterion, Range<A>::up, scratch, row, pixels);
  }
  std::vector<double> sums(width);
  double best = 0;
  int64_t chosen = -1;
  std::vector<double> scores(down.stride * right.stride);
  for (int64_t r = 0; r < down.stride; ++r) {
    std::fill(sums.begin(), sums.end(), extreme ? -INFINITY : 0.0);
    for (int64_t o = 0; o < down.output; ++o) {
      const A* line = pixels + ((o * down.stride + r) % height) * width;
      if (extreme) for (int64_t x = 0; x < width; ++x) measure(sums[x], double(line[x]), kMax);
      else for (int64_t x = 0; x < width; ++x) sums[x] += line[x];
    }
    for (int64_t c = 0; c < right.stride; ++c) {
      double total = extreme ? -INFINITY : 0.0;
      for (int64_t o = 0; o < right.output; ++o) {
        const double v = sums[(o * right.stride + c) % width];
        if (extreme) measure(total, v, kMax);
        else total += v;
      }
      scores[r + down.stride * c] = criterion >= kL2Min ? -total : total;
    }
  }
  for (int64_t k = 0; k < down.stride * right.stride; ++k)
    if (chosen < 0 || exceeds(scores[k], best)) best = scores[k], chosen = k;
  return chosen;
}

// Whether this only copies: a circular border no wider than the map.
bool only_wraps(const Axis& down, const Axis& right, int64_t size) {
  const auto wraps = [](const Axis& axis) {
    return axis.stride == 1 && axis.padding == kCircular && std::min(axis.before, axis.after) >= 0;
  };
  return size == 1 && wraps(down) && wraps(right) && std::max(right.before, right.after) <= right.input;
}

// Copies row by row, through the caches, since a convolution reads the result next.
template <class T>
void wrap(const T* from, T* to, int64_t planes, int64_t lanes, const Axis& down, const Axis& right, int threads) {
  const int64_t width = right.input * lanes, left = right.before * lanes, rest = right.after * lanes;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t job = 0; job < planes * down.output; ++job) {
    const int64_t plane = job / down.output, row = job % down.output - down.before;
    const T* source = from + (plane * down.input + (row % down.input + down.input) % down.input) * width;
    T* target = to + job * (left + width + rest);
    std::copy_n(source + width - left, left, target);
    std::copy_n(source, width, target + left);
    std::copy_n(source, rest, target + left + width);
  }
}

template <class T>
void pool(const void* from, void* to, const int64_t* phase, int64_t batch, int64_t channels, const Axis& down, const Axis& right,
          int64_t size, bool last, bool backward, int threads) {
  using A = typename Sum<T>::type;
  if (!backward && !phase && only_wraps(down, right, size))
    return wrap(static_cast<const T*>(from), static_cast<T*>(to), last ? batch : batch * channels, last ? channels : 1, down, right, threads);
  Pass<A> pass(down, right, size, channels, last, backward, phase != nullptr);
  const int64_t rows = pass.height_out(), lanes = pass.lanes(), planes = last ? 1 : channels;
  const int64_t in = pass.height() * pass.width() * lanes, line = pass.width_out() * lanes;
  pass.store_to(static_cast<const T*>(to), batch * planes * rows * line);
  const int64_t step = pass.block(), blocks = (rows + step - 1) / step;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<A> scratch(pass.scratch());
#pragma omp for schedule(static)
    for (int64_t job = 0; job < batch * planes * blocks; ++job) {
      const int64_t plane = job / blocks, o = job % blocks * step, k = phase ? phase[plane / planes] : 0;
      pass(static_cast<const T*>(from) + plane * in, static_cast<T*>(to) + (plane * rows + o) * line, o,
           std::min(rows, o + step), k % down.stride, k / down.stride, scratch.data());
    }
    stores_done();
  }
}

template <class T>
void adaptive(const void* from, void* to, int64_t* phase, int64_t batch, int64_t channels, const Axis& down, const Axis& right,
              int64_t size, int64_t judged, int64_t criterion, bool last, int threads) {
  using A = typename Sum<T>::type;
  const auto dense = [](Axis axis, int64_t taps) {
    if (taps == 1) axis.before = axis.after = 0;
    axis.stride = 1;
    axis.output = axis.blurred(taps);
    return axis;
  };
  const Pass<A> blur(dense(down, judged), dense(right, judged), judged, channels, last, false, false);
  Pass<A> pass(down, right, size, channels, last, false, true);
  const int64_t lanes = pass.lanes(), planes = last ? 1 : channels, rows = pass.height_out();
  const int64_t in = down.input * right.input * lanes, line = pass.width_out() * lanes;
  pass.store_to(static_cast<const T*>(to), batch * planes * rows * line);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<A> scratch(std::max(pass.scratch(), blur.scratch())), row(blur.block() * blur.width_out() * lanes);
    std::vector<A> pixels(blur.height_out() * blur.width_out());
#pragma omp for schedule(static)
    for (int64_t image = 0; image < batch; ++image) {
      const T* source = static_cast<const T*>(from) + image * planes * in;
      const int64_t k = phase[image] =
          choose<T, A>(source, blur, down, right, criterion, scratch.data(), row.data(), pixels.data());
      if (!to) continue;
      T* target = static_cast<T*>(to) + image * planes * rows * line;
      for (int64_t plane = 0; plane < planes; ++plane)
        for (int64_t o = 0; o < rows; o += pass.block())
          pass(source + plane * in, target + (plane * rows + o) * line, o, std::min(rows, o + pass.block()),
               k % down.stride, k / down.stride, scratch.data());
    }
    stores_done();
  }
}

Axis axis(const int64_t* a, int64_t padding) { return {a[0], a[1], a[2], a[3], a[4], padding}; }

}  // namespace

extern "C" {

// axes: input, output, stride, before, after of the rows, then of the columns. `from` and `to` point to
// NUMBERs. Returns 1, and does nothing, if a phase is out of range.
int64_t stillpoint_pool(const void* from, void* to, const int64_t* phase, int64_t batch, int64_t channels,
                        const int64_t* axes, int64_t padding, int64_t size, int64_t last, int64_t backward,
                        int64_t threads) {
  const Axis down = axis(axes, padding), right = axis(axes + 5, padding);
  for (int64_t n = 0; phase && n < batch; ++n)
    if (phase[n] < 0 || phase[n] >= down.stride * right.stride) return 1;
  pool<NUMBER>(from, to, phase, batch, channels, down, right, size, last != 0, backward != 0, static_cast<int>(threads));
  return 0;
}

// Writes each image's phase and, if `to` is given, the blurred map sampled there. `judged`: taps of the filter before the
// norms, 1 for none.
int64_t stillpoint_adaptive(const void* from, void* to, int64_t* phase, int64_t batch, int64_t channels,
                            const int64_t* axes, int64_t padding, int64_t size, int64_t judged, int64_t criterion,
                            int64_t last, int64_t threads) {
  const Axis down = axis(axes, padding), right = axis(axes + 5, padding);
  adaptive<NUMBER>(from, to, phase, batch, channels, down, right, size, judged, criterion, last != 0, static_cast<int>(threads));
  return 0;
}

// A filter for every pixel: computes `wanted` (0 output, 1 input, 2 weights) from the other two. numbers: batch, channels,
// height, width, groups, size, stride down, stride right, padding, then four strides each of x, the weights and y.
void stillpoint_local_filter(void* x, void* weight, void* y, const int64_t* numbers, int64_t wanted, int64_t threads) {
  Local g;
  static_assert(sizeof g == 21 * sizeof(int64_t), "plain numbers, in this order");
  std::memcpy(&g, numbers, sizeof g);
  local_filter<NUMBER>(x, weight, y, g, wanted, static_cast<int>(threads));
}

}  // extern "C"
