// What every operator binding needs: tensors in and out through the stable C shims, errors, libtorch's
// thread pool. Bindings re-check what memory safety rests on; the friendly messages live in Python.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "common/arena.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold::bind {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// tenfold.ops turns a message with this mark into a ValueError whose text is what follows the mark.
[[noreturn]] inline void value_error(const std::string& message) {
  throw std::runtime_error("[tenfold:ValueError]" + message);
}

// For misuse of the raw operator, which the Python face excludes.
inline void check(bool ok, const char* message) {
  if (!ok) value_error(message);
}

inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Tensor empty_cpu(const int64_t* size, int64_t ndim, ScalarType dtype) {
  constexpr int64_t kMostDims = 64;  // torch's own limit
  int64_t stride[kMostDims];
  check(ndim <= kMostDims, "empty: expected at most 64 dimensions");
  int64_t step = 1;
  for (int64_t i = ndim - 1; i >= 0; --i) {
    stride[i] = step;
    step *= size[i] > 1 ? size[i] : 1;
  }
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      ndim, size, stride, torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}
inline Tensor empty_cpu(std::initializer_list<int64_t> size, ScalarType dtype) {
  return empty_cpu(size.begin(), static_cast<int64_t>(size.size()), dtype);
}
inline Tensor empty_cpu(const std::vector<int64_t>& size, ScalarType dtype) {
  return empty_cpu(size.data(), static_cast<int64_t>(size.size()), dtype);
}

inline std::vector<int64_t> sizes_of(const Tensor& t) {
  std::vector<int64_t> size;
  for (int64_t d = 0; d < t.dim(); ++d) size.push_back(t.size(d));
  return size;
}

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// libtorch's own pool: it follows torch.set_num_threads and is serial inside another parallel region.
inline Parallel torch_parallel() {
  uint32_t threads = 1;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&threads));
  Parallel parallel;
  parallel.threads = static_cast<int>(threads);
  parallel.run = [](int64_t tasks, Parallel::Body body, void* context) {
    struct Call {
      Parallel::Body body;
      void* context;
    } call{body, context};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(
        0, tasks, 1,
        [](int64_t begin, int64_t end, void* opaque) {
          const Call* c = static_cast<const Call*>(opaque);
          for (int64_t task = begin; task < end; ++task) c->body(c->context, task);
        },
        &call));
  };
  return parallel;
}

// Every operator binding states the contract number it implements; Python compares it with its own.
struct Contract {
  Contract(const char* op, int number);
};

}  // namespace tenfold::bind

#define TENFOLD_CONTRACT(op, number) static const ::tenfold::bind::Contract contract_##op{#op, number}
