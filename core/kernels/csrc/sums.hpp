// Weighted sums of rows, of columns and of single pixels.

#pragma once

#include "tables.hpp"

namespace {

// out[i] = w[0] * rows[0][i] + ... + w[N - 1] * rows[N - 1][i], added from the left; for `count` outputs, whose rows are
// `step` apart.
template <int N, class A, class From, class To>
void combine(const From* const* rows, const A* w, To* out, int64_t n, int64_t count = 1, int64_t step = 0, int64_t out_step = 0) {
  const From* r[N];
  A weight[N];
  for (int k = 0; k < N; ++k) r[k] = rows[k], weight[k] = w[k];
  for (int64_t o = 0; o < count; ++o, out += out_step) {
    To* __restrict target = out;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      A v = weight[0] * get(r[0][i]);
#pragma GCC unroll 8
      for (int k = 1; k < N; ++k) v += weight[k] * get(r[k][i]);
      put(target[i], v);
    }
    for (int k = 0; k < N; ++k) r[k] += step;
  }
}

template <class A, class From, class To>
void combine(int64_t terms, const From* const* rows, const A* w, To* out, int64_t n, int64_t count = 1, int64_t step = 0, int64_t out_step = 0) {
  switch (terms) {
    case 0:
      for (int64_t o = 0; o < count; ++o)
        for (int64_t i = 0; i < n; ++i) put(out[o * out_step + i], A(0));
      return;
    case 1: return combine<1>(rows, w, out, n, count, step, out_step);
    case 2: return combine<2>(rows, w, out, n, count, step, out_step);
    case 3: return combine<3>(rows, w, out, n, count, step, out_step);
    case 4: return combine<4>(rows, w, out, n, count, step, out_step);
    case 5: return combine<5>(rows, w, out, n, count, step, out_step);
    case 6: return combine<6>(rows, w, out, n, count, step, out_step);
    case 7: return combine<7>(rows, w, out, n, count, step, out_step);
    default: return combine<8>(rows, w, out, n, count, step, out_step);
  }
}

// Sums the terms of one output: arrays of n numbers, `step` apart.
template <class A, class From, class To>
void gather(const Table<A>& table, int64_t o, const From* base, int64_t step, To* out, int64_t n, A* spare) {
  const Term<A>* term = table.begin(o);
  const int64_t count = table.count(o);
  const From* rows[8];
  A weights[8];
  for (int64_t k = 0; k < std::min<int64_t>(count, 8); ++k) {
    rows[k] = base + term[k].from * step;
    weights[k] = term[k].weight;
  }
  if (count <= 8) {
    combine<A>(count, rows, weights, out, n);
  } else {  // a small map wrapped or mirrored many times
    combine<8>(rows, weights, spare, n);
    for (int64_t k = 8; k < count; ++k) {
      const From* row = base + term[k].from * step;
      for (int64_t i = 0; i < n; ++i) spare[i] += term[k].weight * get(row[i]);
    }
    for (int64_t i = 0; i < n; ++i) put(out[i], spare[i]);
  }
}

template <class A, class From, class To>
void across(const Table<A>& table, int64_t from, int64_t to, const From* middle, To* out) {
  for (int64_t o = from; o < to; ++o) {
    const Term<A>* term = table.begin(o);
    const int64_t count = table.count(o);
    A v = count ? term->weight * get(middle[term->from]) : A(0);
    for (int64_t k = 1; k < count; ++k) v += term[k].weight * get(middle[term[k].from]);
    put(out[o], v);
  }
}

// Computes one output of each of `count` rows.
template <int N, class A, class To>
void column(const Term<A>* term, const A* row, int64_t line, To* out, int64_t out_line, int64_t count) {
  int64_t from[N];
  A weight[N];
  for (int t = 0; t < N; ++t) from[t] = term[t].from, weight[t] = term[t].weight;
  for (int64_t k = 0; k < count; ++k, row += line, out += out_line) {
    A v = weight[0] * row[from[0]];
#pragma GCC unroll 8
    for (int t = 1; t < N; ++t) v += weight[t] * row[from[t]];
    put(*out, v);
  }
}

// Computes outputs [low, high) of `count` rows.
template <class A, class To>
void borders(const Table<A>& table, int64_t low, int64_t high, const A* middle, int64_t line, To* out, int64_t out_line, int64_t count) {
  for (int64_t o = low; o < high; ++o) {
    const Term<A>* term = table.begin(o);
    switch (table.count(o)) {
      case 1: column<1>(term, middle, line, out + o, out_line, count); break;
      case 2: column<2>(term, middle, line, out + o, out_line, count); break;
      case 3: column<3>(term, middle, line, out + o, out_line, count); break;
      case 4: column<4>(term, middle, line, out + o, out_line, count); break;
      case 5: column<5>(term, middle, line, out + o, out_line, count); break;
      default:
        for (int64_t k = 0; k < count; ++k) across(table, o, o + 1, middle + k * line, out + k * out_line);
    }
  }
}

}  // namespace
