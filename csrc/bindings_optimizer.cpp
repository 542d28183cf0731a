// What Python calls for the optimizer step.

#include <stdexcept>

#include "bindings.h"
#include "optimizer.h"

namespace py = pybind11;

namespace ctm_fast {
namespace {

using Address = std::uintptr_t;

template <class T>
const T* table(Address address, std::int64_t size) {
  if (address == 0 && size > 0) throw std::invalid_argument("null address");
  return reinterpret_cast<const T*>(address);
}

void check_share(double share) {
  if (!(share > 0.0 && share <= 1.0)) throw std::invalid_argument("a share is not in (0, 1]");
}

// Addresses of the tables of csrc/optimizer.h; `count` weights, `averages` averages of each.
void optimizer_step(Address sizes, Address tensors, Address grads, Address factors, Address follow,
                    std::int64_t count, std::int64_t averages, double new_first, double new_second,
                    double gain, int threads) {
  if (count < 0 || averages < 0) throw std::invalid_argument("a count is negative");
  if (threads < 1) throw std::invalid_argument("at least one thread is needed");
  const OptimizerStep step{table<std::int64_t>(sizes, count),
                           table<float*>(tensors, count),
                           table<const float*>(grads, count),
                           table<double>(factors, count),
                           table<double>(follow, averages),
                           count,
                           averages,
                           new_first,
                           new_second,
                           gain};
  check_share(new_first);
  check_share(new_second);
  for (std::int64_t k = 0; k < averages; ++k) check_share(step.follow[k]);
  for (std::int64_t i = 0; i < count; ++i) {
    if (step.sizes[i] < 0) throw std::invalid_argument("a size is negative");
    for (std::int64_t k = 0; k < 3 + averages; ++k) {
      if (step.sizes[i] > 0 && step.tensors[k * count + i] == nullptr)
        throw std::invalid_argument("null address");
    }
  }
  const py::gil_scoped_release release;
  optimizer_step_cpu(step, threads);
}

}  // namespace

void bind_optimizer(py::module_& module) { module.def("optimizer_step", &optimizer_step); }

}  // namespace ctm_fast
