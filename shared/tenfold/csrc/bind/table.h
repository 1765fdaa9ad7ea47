// Index tables in operator bindings.
#pragma once
#include <string>
#include <vector>

#include "bind/common.h"
#include "common/table.h"

namespace tenfold::bind {

// The table of `idx` (..., k) for features (N, C) or (B, N, C), where idx has B as its first dimension; k = 1
// where `per_row` is false. `idx` is contiguous and outlives the table.
inline IndexTable index_table(const char* op, const Tensor& feats, const Tensor& idx, bool per_row, bool validate) {
  const std::string where = op;
  check(feats.dim() == 2 || feats.dim() == 3, (where + ": feats: expected shape (N, C) or (B, N, C)").c_str());
  check(idx.scalar_type() == ScalarType::Int || idx.scalar_type() == ScalarType::Long,
        (where + ": idx: expected int32 or int64").c_str());
  const int64_t least = feats.dim() == 3 ? 1 : 0;
  check(idx.dim() >= least + (per_row ? 1 : 0), (where + ": idx: expected more dimensions").c_str());
  check(feats.dim() == 2 || idx.size(0) == feats.size(0), (where + ": idx: expected the batch size of feats").c_str());
  const int64_t n = feats.size(feats.dim() - 2);
  check(n < (int64_t{1} << 31), (where + ": feats: expected fewer than 2^31 rows").c_str());
  IndexTable table{};
  table.elements = feats.dim() == 3 ? feats.size(0) : 1;
  table.k = per_row ? idx.size(idx.dim() - 1) : 1;
  table.groups = 1;
  for (int64_t d = least; d < idx.dim() - (per_row ? 1 : 0); ++d) table.groups *= idx.size(d);
  table.n = n;
  table.validate = validate;
  table.bad_entry = -1;
  if (idx.scalar_type() == ScalarType::Int)
    table.idx32 = in<int32_t>(idx);
  else
    table.idx64 = in<int64_t>(idx);
  return table;
}

// Raises the ValueError of a table that failed its check.
inline void require_good_table(const char* op, const IndexTable& table, const Tensor& idx) {
  if (table.bad_entry < 0) return;
  std::string entry;
  int64_t rest = table.bad_entry;
  for (int64_t d = idx.dim() - 1; d >= 0; --d) {
    const int64_t size = idx.size(d) > 0 ? idx.size(d) : 1;
    entry = std::to_string(rest % size) + (entry.empty() ? "" : ", ") + entry;
    rest /= size;
  }
  if (idx.dim() == 1) entry += ",";
  value_error(std::string(op) + ": idx: entry (" + entry + ") is " + std::to_string(host_value(idx, table.bad_entry)) +
              "; expected values from -1 to " + std::to_string(table.n - 1));
}

}  // namespace tenfold::bind
