// pybind11 face of the C functions: the wrapper of each is derived from its signature. Pointers become NumPy
// arrays whose dtype and layout are checked, everything else passes through, and the GIL is released.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "host/functions.h"

namespace py = pybind11;

namespace {

template <class T>
struct Argument {
  using python = T;
  static T pass(const T& value) { return value; }
};

template <class T>
struct Argument<T*> {
  using element = std::remove_const_t<T>;
  using python = py::array;
  static T* pass(py::array& value) {
    if (!value.dtype().is(py::dtype::of<element>()) && !value.dtype().equal(py::dtype::of<element>()))
      throw py::type_error("expected an array of " + std::string(py::str(py::dtype::of<element>())));
    if (!(value.flags() & py::array::c_style)) throw py::value_error("expected a C-contiguous array");
    if constexpr (std::is_const_v<T>) {
      return static_cast<T*>(value.data());
    } else {
      return static_cast<T*>(value.mutable_data());  // raises for read-only arrays
    }
  }
};

template <class... A, size_t... I>
void bind(py::module_& m, const char* name, int64_t (*f)(A...), std::index_sequence<I...>) {
  m.def(name, [f](typename Argument<A>::python... values) {
    std::tuple<A...> native{Argument<A>::pass(values)...};
    py::gil_scoped_release released;
    return f(std::get<I>(native)...);
  });
}

template <class... A>
void bind(py::module_& m, const char* name, int64_t (*f)(A...)) {
  bind(m, name, f, std::index_sequence_for<A...>{});
}

}  // namespace

PYBIND11_MODULE(_tenfold_host, m) {
#define TENFOLD_BIND(name) bind(m, #name, &tenfold_host_##name);
  TENFOLD_HOST_FUNCTIONS(TENFOLD_BIND)
#undef TENFOLD_BIND
}
