// What Python calls for seeded noise.

#include <limits>
#include <stdexcept>

#include "bindings.h"
#include "normal.h"

namespace py = pybind11;

namespace ctm_fast {
namespace {

void normal(std::uintptr_t seeds, std::int64_t step, std::uintptr_t noise, std::int64_t batch,
            std::int64_t size, int threads) {
  if (batch < 1 || size < 1 || batch > std::numeric_limits<std::int64_t>::max() / 8 / size) {
    throw std::invalid_argument("batch and size must be positive and not overflow");
  }
  if (seeds == 0 || noise == 0) throw std::invalid_argument("null address");
  if (threads < 1) throw std::invalid_argument("at least one thread is needed");
  const Normal call{reinterpret_cast<const std::int64_t*>(seeds), static_cast<std::uint64_t>(step),
                    reinterpret_cast<float*>(noise), batch, size};
  const py::gil_scoped_release release;
  normal_cpu(call, threads);
}

}  // namespace

void bind_normal(py::module_& module) { module.def("normal", &normal); }

}  // namespace ctm_fast
