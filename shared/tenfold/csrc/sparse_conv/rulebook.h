// Which input row feeds which output row through which kernel offset: tenfold-core section 7.
//
// A rulebook is a table (K, V_out) of int32: table[k][o] is the input row that offset k brings to output row o,
// or -1. Offset k = (kz * KY + ky) * KX + kx. Site coordinates are int32 rows (b, z, y, x).
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

struct SiteGrid {
  int64_t batch;
  int64_t shape[3];  // z y x
};

struct ConvGeometry {
  int64_t kernel[3];
  int64_t stride[3];
  int64_t padding[3];
  int64_t dilation[3];
};

enum class SiteFault : int { none = 0, out_of_range = 1, duplicate = 2 };

struct SubmanifoldArgs {
  const int32_t* coords;  // (n, 4)
  int64_t n;
  SiteGrid grid;
  ConvGeometry geometry;  // kernel and dilation are used
  bool validate;
  Parallel parallel;
  int32_t* table;  // (K, n) out
  SiteFault fault;  // out
  int64_t fault_row;  // out
};

// Three steps: the number of pairs sizes the scratch, the number of output sites the results.
struct StridedArgs {
  const int32_t* coords;  // (n, 4)
  int64_t n;
  SiteGrid grid;
  SiteGrid out_grid;
  ConvGeometry geometry;
  bool validate;
  Parallel parallel;
  SiteFault fault;    // out of the first step
  int64_t fault_row;
  int64_t pairs;      // out of the first step: room that the scratch needs; of the second: their number
  bool wide;          // out of the first step: output sites need more than 32 bits
  void* key;          // (pairs) scratch, uint32_t or, when wide, uint64_t: output site as bit fields
  uint64_t* payload;  // (pairs) scratch: input row and kernel offset, in order of emission
  int32_t* order;     // (pairs) scratch: emission behind each sorted key
  int64_t out_rows;   // out of the second step
  int32_t* out_rows_there;  // CUDA: where it goes on the device, if the host need not know it
  int64_t rows;         // of the results, for the third step; sites from there on are left out
  int32_t* out_coords;  // (rows, 4) out; behind the sites nothing is written
  int32_t* table;       // (K, rows) out
};

struct InvertArgs {
  const int32_t* table;  // (K, out_rows)
  int64_t offsets;
  int64_t out_rows;
  int64_t in_rows;
  Parallel parallel;
  int32_t* inverse;  // (K, in_rows) out: inverse[k][table[k][o]] = o
  bool bad;          // out: an entry is not below in_rows
};

}  // namespace tenfold

TENFOLD_KERNEL(rulebook_submanifold, SubmanifoldArgs)
TENFOLD_KERNEL(rulebook_strided_count, StridedArgs)
TENFOLD_KERNEL(rulebook_strided_sites, StridedArgs)
TENFOLD_KERNEL(rulebook_strided_fill, StridedArgs)
TENFOLD_KERNEL(rulebook_invert, InvertArgs)
