// Cutting a sequence into groups of neighbours by dynamic programming.
#pragma once
#include "host/host.h"

// gain[a * n + b] = what the group of items a..b (inclusive) is worth, for a <= b; other entries are 0. Each item of
// a group of two or more adds its mean similarity to the others and the logistic function of its largest one; a
// group of one is worth 0. similarity (n, n), the diagonal is not read.
TENFOLD_HOST int64_t tenfold_host_grouping_gains(int64_t n, const double* similarity, double* gain);

// The best partition of n items into k_lo..k_hi groups of neighbours by the sum of gain (n, n). Differences of at
// most `tie` are ties: fewer groups win, then the earlier start of the last group, of the one before it, and so on.
// starts (k_hi,): first item of each group; value (1,): the sum. Returns the number of groups.
TENFOLD_HOST int64_t tenfold_host_partition(int64_t n, const double* gain, int64_t k_lo, int64_t k_hi, double tie,
                                            int64_t* starts, double* value);
