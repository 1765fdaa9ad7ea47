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
#include "common/bytes.h"
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

inline std::vector<int64_t> sizes_of(const Tensor& t) {
  std::vector<int64_t> size;
  for (int64_t d = 0; d < t.dim(); ++d) size.push_back(t.size(d));
  return size;
}

inline Tensor empty_tensor(const int64_t* size, int64_t ndim, ScalarType dtype, int32_t device_type,
                           int32_t device_index) {
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
      ndim, size, stride, torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device_type,
      device_index, &handle));
  return Tensor(handle);
}

// What follows differs between the two libraries that are made of these bindings: tensors of the call's device.
#ifdef TENFOLD_DEVICE
}  // namespace tenfold::bind
#include "bind/device.h"
namespace tenfold::bind {
#else
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Tensor new_tensor(const int64_t* size, int64_t ndim, ScalarType dtype) {
  return empty_tensor(size, ndim, dtype, aoti_torch_device_type_cpu(), 0);
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

// Values of an int64 or int32 tensor, read by the host.
inline std::vector<int64_t> host_values(const Tensor& t) {
  const Tensor c = as_contiguous(t);
  std::vector<int64_t> values(static_cast<size_t>(c.numel()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = c.scalar_type() == ScalarType::Long ? in<int64_t>(c)[i] : in<int32_t>(c)[i];
  return values;
}
inline int64_t host_value(const Tensor& contiguous, int64_t at) {
  return contiguous.scalar_type() == ScalarType::Long ? in<int64_t>(contiguous)[at] : in<int32_t>(contiguous)[at];
}
// Writes host values to the front of a tensor.
template <class T>
void put_values(const Tensor& t, const T* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out<T>(t)[i] = values[i];
}
inline void fill_with(const Tensor& t, int byte) {
  fill_bytes(t.mutable_data_ptr(), byte, static_cast<size_t>(t.numel()) * static_cast<size_t>(t.element_size()));
}

// A tensor that the caller brought for results; only the emulated device must be told.
inline void adopt(const Tensor&) {}

#define TENFOLD_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(tenfold, CPU, m)
#define TENFOLD_BOX(function) TORCH_BOX(&function)
#endif

inline Tensor new_tensor(std::initializer_list<int64_t> size, ScalarType dtype) {
  return new_tensor(size.begin(), static_cast<int64_t>(size.size()), dtype);
}
inline Tensor new_tensor(const std::vector<int64_t>& size, ScalarType dtype) {
  return new_tensor(size.data(), static_cast<int64_t>(size.size()), dtype);
}

// Every operator binding states the contract number it implements; Python compares it with its own.
struct Contract {
  Contract(const char* op, int number);
};

}  // namespace tenfold::bind

#define TENFOLD_CONTRACT(op, number) static const ::tenfold::bind::Contract contract_##op{#op, number}
