// Padded and stacked batches of points as row ranges of the flattened tensor (contract 2.2).
#pragma once
#include <string>
#include <vector>

#include "bind/common.h"

namespace tenfold::bind {

struct RowRange {
  int64_t begin;
  int64_t count;
  int64_t rows;  // >= count; padded elements have unused rows behind
};

inline void check_int64_vector(const Tensor& t, const char* message) {
  check(t.dim() == 1 && t.scalar_type() == ScalarType::Long, message);
}

// Number of batch elements of a (B, N, .) tensor, or of a stacked one with its offsets.
inline int64_t batch_size(const Tensor& t, const std::optional<Tensor>& offsets) {
  if (t.dim() == 3) return t.size(0);
  return offsets.has_value() ? offsets->size(0) - 1 : 1;
}

// Fills `range` (batch_size entries) and re-checks the sizes, which the kernels trust.
inline void row_ranges(const char* op, const char* name, const Tensor& t, const std::optional<Tensor>& lengths,
                       const std::optional<Tensor>& offsets, RowRange* range) {
  const std::string where = std::string(op) + ": " + name;
  const int64_t n = t.size(t.dim() - 2);
  const int64_t elements = batch_size(t, offsets);
  const auto bad = [&](const char* what, int64_t entry, int64_t value, const char* expected) {
    value_error(where + what + ": entry " + std::to_string(entry) + " is " + std::to_string(value) + "; expected " +
                expected + std::to_string(n));
  };
  if (t.dim() == 3) {
    check(!offsets.has_value(), "batching: offsets: expected none with padded points");
    std::vector<int64_t> length;
    if (lengths.has_value()) {
      check_int64_vector(*lengths, "batching: lengths: expected int64 of shape (B,)");
      check(lengths->size(0) == elements, "batching: lengths: expected one entry per batch element");
      length = host_values(*lengths);
    }
    for (int64_t e = 0; e < elements; ++e) {
      const int64_t count = lengths.has_value() ? length[static_cast<size_t>(e)] : n;
      if (count < 0 || count > n) bad("lengths", e, count, "0 to ");
      range[e] = {e * n, count, n};
    }
    return;
  }
  check(!lengths.has_value(), "batching: lengths: expected none with stacked points");
  if (!offsets.has_value()) {
    range[0] = {0, n, n};
    return;
  }
  const std::vector<int64_t> offset = host_values(*offsets);
  const int64_t* o = offset.data();
  for (int64_t e = 0; e <= elements; ++e) {
    const bool fine = (e == 0 ? o[e] == 0 : o[e] >= o[e - 1]) && o[e] <= n && (e < elements || o[e] == n);
    if (!fine) bad("offsets", e, o[e], "values that rise from 0 to ");
  }
  for (int64_t e = 0; e < elements; ++e) range[e] = {o[e], o[e + 1] - o[e], o[e + 1] - o[e]};
}

inline void check_offsets(const std::string& op, const std::optional<Tensor>& offsets) {
  if (!offsets.has_value()) return;
  check_int64_vector(*offsets, (op + ": offsets: expected int64 of shape (B + 1,)").c_str());
  check(offsets->size(0) >= 1, (op + ": offsets: expected at least one entry").c_str());
}

// Row ranges of two inputs with the same batch elements.
struct TwoRanges {
  std::vector<RowRange> first, second;
};

// `name` begins those of the second input's lengths and offsets.
inline TwoRanges two_ranges(const char* op, const char* name, const Tensor& first, const Tensor& second,
                            const std::optional<Tensor>& lengths, const std::optional<Tensor>& second_lengths,
                            const std::optional<Tensor>& offsets, const std::optional<Tensor>& second_offsets) {
  check_offsets(op, offsets);
  check_offsets(op, second_offsets);
  const int64_t elements = batch_size(first, offsets);
  check(elements == batch_size(second, second_offsets),
        (std::string(op) + ": " + name + "offsets: expected the batch size of offsets").c_str());
  TwoRanges ranges{std::vector<RowRange>(static_cast<size_t>(elements)),
                   std::vector<RowRange>(static_cast<size_t>(elements))};
  row_ranges(op, "", first, lengths, offsets, ranges.first.data());
  row_ranges(op, name, second, second_lengths, second_offsets, ranges.second.data());
  return ranges;
}

// For messages: "row 3", or "row 3 of batch element 1" in a padded batch.
inline std::string row_text(const Tensor& t, const RowRange& range, int64_t element, int64_t row) {
  if (t.dim() == 3) return "row " + std::to_string(row) + " of batch element " + std::to_string(element);
  return "row " + std::to_string(range.begin + row);
}

}  // namespace tenfold::bind
