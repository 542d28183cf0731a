// The parts of `ctm_fast._native`, one function per file of bindings.
#pragma once

#include <pybind11/pybind11.h>

namespace ctm_fast {

void bind_tiles(pybind11::module_& module);
void bind_group_norm(pybind11::module_& module);
void bind_group_norm_call(pybind11::module_& module);
void bind_normal(pybind11::module_& module);
void bind_optimizer(pybind11::module_& module);

}  // namespace ctm_fast
