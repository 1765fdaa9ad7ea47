// Tensors of the CUDA library, and of its emulation (TENFOLD_EMULATED), where device memory is host memory that the
// emulator watches. Included by bind/common.h in the place of the functions for CPU tensors.
#pragma once
#include <cstring>
#include <memory>

#include "common/device_stream.h"
#ifdef TENFOLD_EMULATED
#include "emu/emu.h"
#endif

namespace tenfold::bind {

// One operator call: its device is current, kernels go to that device's current stream, scratch lives until the end.
class Call {
 public:
  explicit Call(const Tensor& of) : device_(of.get_device_index()), before_(now()) {
    now() = this;
    stream_.owner = this;
    stream_.allocate = [](void* owner, int64_t count, int64_t element_bytes) {
      return static_cast<Call*>(owner)->scratch(count, element_bytes);
    };
#ifndef TENFOLD_EMULATED
    DeviceGuardHandle guard = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_device_guard(device_, &guard));
    guard_.reset(guard);
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream_.handle));
#endif
  }
  ~Call() {
    now() = before_;
#ifdef TENFOLD_EMULATED
    if (before_ == nullptr) emu::clear_buffers();
#endif
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  static Call*& now() {
    static thread_local Call* call = nullptr;
    return call;
  }
  const device::Stream& stream() const { return stream_; }

#ifdef TENFOLD_EMULATED
  // With guard zones on both sides.
  Tensor make(const int64_t* size, int64_t ndim, ScalarType dtype, emu::Content content = emu::Content::fresh) {
    const int64_t none = 0;
    const auto element = static_cast<int64_t>(empty_tensor(&none, 1, dtype, aoti_torch_device_type_cpu(), 0).element_size());
    const int64_t guard = static_cast<int64_t>(emu::kGuardBytes) / element;
    int64_t stride[64], numel = 1;
    check(ndim <= 64, "empty: expected at most 64 dimensions");
    for (int64_t i = ndim - 1, step = 1; i >= 0; --i) {
      stride[i] = step;
      step *= size[i] > 1 ? size[i] : 1;
      numel *= size[i];
    }
    const int64_t whole = numel + 2 * guard;
    const Tensor buffer = empty_tensor(&whole, 1, dtype, aoti_torch_device_type_cpu(), 0);
    auto* begin = static_cast<char*>(buffer.mutable_data_ptr()) + emu::kGuardBytes;
    const auto bytes = static_cast<size_t>(numel * element);
    emu::add_guards(begin, bytes);
    emu::add_buffer(begin, bytes, static_cast<size_t>(element), content);
    AtenTensorHandle handle = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(buffer.get(), ndim, size, stride, guard, &handle));
    kept_.push_back(buffer);
    return Tensor(handle);
  }
#else
  Tensor make(const int64_t* size, int64_t ndim, ScalarType dtype) {
    return empty_tensor(size, ndim, dtype, aoti_torch_device_type_cuda(), device_);
  }
#endif

 private:
  void* scratch(int64_t count, int64_t element_bytes) {
    const ScalarType dtype = element_bytes % 8 == 0   ? ScalarType::Long
                             : element_bytes % 4 == 0 ? ScalarType::Int
                                                      : ScalarType::Byte;
    const int64_t unit = dtype == ScalarType::Long ? 8 : dtype == ScalarType::Int ? 4 : 1;
    const int64_t words = count * (element_bytes / unit);
    kept_.push_back(make(&words, 1, dtype));
    return kept_.back().mutable_data_ptr();
  }

  int32_t device_;
  Call* before_;
  device::Stream stream_;
  std::vector<Tensor> kept_;
#ifndef TENFOLD_EMULATED
  struct Release {
    void operator()(DeviceGuardHandle guard) const { aoti_torch_delete_device_guard(guard); }
  };
  std::unique_ptr<std::remove_pointer_t<DeviceGuardHandle>, Release> guard_;
#endif
};

inline const device::Stream& stream() { return Call::now()->stream(); }

inline Tensor new_tensor(const int64_t* size, int64_t ndim, ScalarType dtype) {
  return Call::now()->make(size, ndim, dtype);
}

#ifdef TENFOLD_EMULATED
// A copy between guard zones, which kernels may not write to.
inline Tensor as_contiguous(const Tensor& t) {
  const Tensor from = t.is_contiguous() ? t : torch::stable::contiguous(t);
  const std::vector<int64_t> size = sizes_of(t);
  const Tensor to = Call::now()->make(size.data(), t.dim(), t.scalar_type(), emu::Content::constant);
  const auto bytes = static_cast<size_t>(t.numel()) * static_cast<size_t>(t.element_size());
  if (bytes != 0) std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), bytes);
  return to;
}
#else
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
#endif

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Lets kernels write to a tensor that the caller brought.
inline void adopt(const Tensor& t) {
#ifdef TENFOLD_EMULATED
  emu::add_buffer(t.mutable_data_ptr(), static_cast<size_t>(t.numel()) * static_cast<size_t>(t.element_size()),
                  static_cast<size_t>(t.element_size()), emu::Content::given);
#else
  (void)t;
#endif
}

// Kernels of this library take their stream from where those of the other one take their threads.
inline Parallel torch_parallel() {
  Parallel parallel;
  parallel.stream = &stream();
  return parallel;
}

// Scratch of bindings; it lives as long as the call.
class Scratch {
 public:
  template <class T>
  T* take(int64_t count) {
    return stream().scratch<T>(count);
  }
  template <class T>
  T* zeros(int64_t count) {
    T* p = take<T>(count);
    device::fill_device(stream(), p, 0, count * static_cast<int64_t>(sizeof(T)));
    return p;
  }
};

// Values of an int64 or int32 tensor, read by the host: waits for the stream.
inline std::vector<int64_t> host_values(const Tensor& t) {
  const Tensor c = as_contiguous(t);
  const auto n = static_cast<size_t>(c.numel());
  std::vector<int64_t> values(n);
  if (c.scalar_type() == ScalarType::Long) {
    device::copy_to_host(stream(), values.data(), in<int64_t>(c), static_cast<int64_t>(8 * n));
  } else {
    std::vector<int32_t> narrow(n);
    device::copy_to_host(stream(), narrow.data(), in<int32_t>(c), static_cast<int64_t>(4 * n));
    values.assign(narrow.begin(), narrow.end());
  }
  return values;
}
inline int64_t host_value(const Tensor& contiguous, int64_t at) {
  int64_t wide = 0;
  int32_t narrow = 0;
  if (contiguous.scalar_type() == ScalarType::Long) {
    device::copy_to_host(stream(), &wide, in<int64_t>(contiguous) + at, 8);
    return wide;
  }
  device::copy_to_host(stream(), &narrow, in<int32_t>(contiguous) + at, 4);
  return narrow;
}
template <class T>
void put_values(const Tensor& t, const T* values, int64_t count) {
  device::copy_to_device(stream(), out<T>(t), values, count * static_cast<int64_t>(sizeof(T)));
}
inline void fill_with(const Tensor& t, int byte) {
  device::fill_device(stream(), t.mutable_data_ptr(), byte, t.numel() * static_cast<int64_t>(t.element_size()));
}

// The operator inside a Call on the device of its first argument, a tensor.
template <auto kFunction>
struct OnDevice;
template <class R, class... A, R (*kFunction)(Tensor, A...)>
struct OnDevice<kFunction> {
  static R call(Tensor first, A... rest) {
    const Call scope(first);
    return kFunction(std::move(first), std::move(rest)...);
  }
};

}  // namespace tenfold::bind

#ifdef TENFOLD_EMULATED
#define TENFOLD_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(tenfold_emulated, CPU, m)
#else
#define TENFOLD_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(tenfold, CUDA, m)
#endif
#define TENFOLD_BOX(function) TORCH_BOX(&::tenfold::bind::OnDevice<&function>::call)
