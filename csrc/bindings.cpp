// `ctm_fast._native`: what Python calls. It sees addresses and sizes, never a tensor.

#include <pybind11/pybind11.h>

#include <limits>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "heun.h"

namespace py = pybind11;

namespace ctm_fast {
namespace {

using Address = std::uintptr_t;

Dtype dtype(int code) {
  if (code < 0 || code > 3) {
    throw std::invalid_argument("dtype code " + std::to_string(code) + " is not in 0..3");
  }
  return static_cast<Dtype>(code);
}

const void* input(Address address) { return reinterpret_cast<const void*>(address); }

void check(const HeunStep& step, bool cuda) {
  const bool wide = step.state == Dtype::float64;
  if (step.state != Dtype::float32 && (!wide || cuda)) {
    throw std::invalid_argument("the state must be float32, or float64 on the CPU");
  }
  for (Dtype other : {step.network, step.out}) {
    const bool half = other == Dtype::bfloat16 || other == Dtype::float16;
    if (wide ? half : other == Dtype::float64) {
      throw std::invalid_argument("this network dtype does not go with the state's dtype");
    }
  }
  if (step.batch < 0 || step.size < 0 ||
      (step.size > 0 && step.batch > std::numeric_limits<std::int64_t>::max() / 8 / step.size)) {
    throw std::invalid_argument("batch and size must not be negative, nor overflow");
  }
  if (step.batch == 0 || step.size == 0) return;
  const bool correct = step.f2 != nullptr;
  if (!step.x || !step.f1 || !step.a || !step.b || !step.c_in || !step.scaled ||
      (correct && (!step.c || !step.next))) {
    throw std::invalid_argument("null address");
  }
}

// `device` is -1 for the CPU; `lane` is its number of threads, or the CUDA stream.
void heun_step(Address x, Address f1, Address f2, Address a, Address b, Address c, Address c_in,
               Address active, Address next, Address scaled, std::int64_t batch, std::int64_t size,
               int state, int network, int out, int device, std::int64_t lane) {
  const HeunStep step{input(x),
                      input(f1),
                      input(f2),
                      input(a),
                      input(b),
                      input(c),
                      input(c_in),
                      static_cast<const bool*>(input(active)),
                      reinterpret_cast<void*>(next),
                      reinterpret_cast<void*>(scaled),
                      batch,
                      size,
                      dtype(state),
                      dtype(network),
                      dtype(out)};
  check(step, device >= 0);
  const py::gil_scoped_release release;
  if (device < 0) {
    if (lane < 1) throw std::invalid_argument("at least one thread is needed");
    heun_cpu(step, static_cast<int>(lane));
    return;
  }
#if defined(CTM_FAST_CUDA_ARCHITECTURES)
  heun_cuda(step, device, reinterpret_cast<void*>(lane));
#else
  throw std::invalid_argument("the CUDA part was not built");
#endif
}

std::string cpu_target() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
#endif
  return "baseline code";
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Compiled kernels of ctm_fast.";
  module.attr("interface") = 2;
  module.attr("compiler") = CTM_FAST_COMPILER;
  module.attr("cpu_target") = cpu_target();
#if defined(_OPENMP)
  module.attr("openmp") = true;
#else
  module.attr("openmp") = false;
#endif
#if defined(CTM_FAST_CUDA_ARCHITECTURES)
  module.attr("cuda_architectures") = CTM_FAST_CUDA_ARCHITECTURES;
  module.attr("cuda_version") = CTM_FAST_CUDA_VERSION;
#else
  module.attr("cuda_architectures") = "";
  module.attr("cuda_version") = "";
#endif
  module.def("heun_step", &heun_step);
  bind_group_norm(module);
}

}  // namespace ctm_fast
