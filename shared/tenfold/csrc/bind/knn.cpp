#include "knn/knn.h"

#include <vector>

#include "bind/batching.h"
#include "bind/common.h"

namespace tenfold::bind {
namespace {

constexpr int64_t kLimit = int64_t{1} << 31;

struct Batch {
  TwoRanges ranges;  // of points and queries
  std::vector<KnnElement> elements;
};

void check_points(const Tensor& ref, const Tensor& query) {
  check(ref.dim() == 2 || ref.dim() == 3, "knn: ref: expected shape (N, 3) or (B, N, 3)");
  check(query.dim() == ref.dim(), "knn: query: expected as many dimensions as ref");
  check(ref.size(ref.dim() - 1) == 3, "knn: ref: expected 3 columns");
  check(query.size(query.dim() - 1) == 3, "knn: query: expected 3 columns");
  check(ref.dim() == 2 || ref.size(0) == query.size(0), "knn: query: expected the batch size of ref");
  check(ref.scalar_type() == query.scalar_type(), "knn: query: expected the dtype of ref");
  check(ref.numel() / 3 < kLimit, "knn: ref: expected fewer than 2^31 points");
  check(query.numel() / 3 < kLimit, "knn: query: expected fewer than 2^31 queries");
}

Batch make_batch(const Tensor& ref, const Tensor& query, const std::optional<Tensor>& lengths,
                 const std::optional<Tensor>& query_lengths, const std::optional<Tensor>& offsets,
                 const std::optional<Tensor>& query_offsets) {
  Batch batch{two_ranges("knn", "query_", ref, query, lengths, query_lengths, offsets, query_offsets), {}};
  for (size_t e = 0; e < batch.ranges.first.size(); ++e) {
    const RowRange& p = batch.ranges.first[e];
    const RowRange& q = batch.ranges.second[e];
    batch.elements.push_back({p.begin, p.count, q.begin, q.count, q.rows});
  }
  return batch;
}

template <class T, class Kernel>
void run(Kernel kernel, const Tensor& ref, const Tensor& query, const Batch& batch, int64_t k, bool root, bool validate,
         const Tensor& dist2, const Tensor& idx) {
  KnnArgs<T> args{};
  args.ref = in<T>(ref);
  args.query = in<T>(query);
  args.elements = batch.elements.data();
  args.num_elements = static_cast<int64_t>(batch.elements.size());
  args.k = k;
  args.global_index = ref.dim() == 2;
  args.root = root;
  args.validate = validate;
  args.parallel = torch_parallel();
  args.dist2 = out<T>(dist2);
  args.idx = out<int32_t>(idx);
  kernel(args);
  if (args.bad_what == 0) return;
  const bool point = args.bad_what == 1;
  const auto e = static_cast<size_t>(args.bad_element);
  value_error(std::string("knn: ") + (point ? "ref: " : "query: ") +
              row_text(ref, point ? batch.ranges.first[e] : batch.ranges.second[e], args.bad_element, args.bad_row) +
              " is not finite; expected finite coordinates");
}

std::tuple<Tensor, Tensor> knn_op(Tensor ref, Tensor query, int64_t k, std::optional<Tensor> lengths,
                                   std::optional<Tensor> query_lengths, std::optional<Tensor> offsets,
                                   std::optional<Tensor> query_offsets, bool root, bool validate) {
  check_points(ref, query);
  check(k >= 1 && k <= kMostNeighbours, "knn: k: expected 1 to 64");
  const Tensor p = as_contiguous(ref);
  const Tensor q = as_contiguous(query);
  const Batch batch = make_batch(p, q, lengths, query_lengths, offsets, query_offsets);
  std::vector<int64_t> size = sizes_of(q);
  size.back() = k;
  Tensor dist2 = new_tensor(size, p.scalar_type());
  Tensor idx = new_tensor(size, ScalarType::Int);
  if (p.scalar_type() == ScalarType::Float) {
    run<float>(dispatch::knn_f32, p, q, batch, k, root, validate, dist2, idx);
  } else {
    check(p.scalar_type() == ScalarType::Double, "knn: ref: expected float32 or float64");
    run<double>(dispatch::knn_f64, p, q, batch, k, root, validate, dist2, idx);
  }
  return {dist2, idx};
}

TENFOLD_CONTRACT(knn, 1);

TENFOLD_OPERATORS(m) { m.impl("knn", TENFOLD_BOX(knn_op)); }

}  // namespace
}  // namespace tenfold::bind
