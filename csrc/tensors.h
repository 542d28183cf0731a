// Tensors as their framework describes them to C, without its headers: DLPack's exchange table.
#pragma once

#include <Python.h>

#include <cstdint>

#include "heun.h"  // Dtype

namespace ctm_fast {

// A tensor in the CPU's memory.
struct Tensor {
  void* data;
  std::int32_t dimensions;
  Dtype dtype;
  const std::int64_t *shape,
      *strides;  // in elements; valid while the tensor is alive and unchanged

  bool same_shape(const Tensor& other) const;
  bool contiguous() const;
  bool channels_last() const;  // (N, C, H, W) that lies as (N, H, W, C)
};

// Tells `read` what tensors are: the only two types whose memory may be read, and the capsule that
// the first one calls __dlpack_c_exchange_api__. False if it is of an unknown version.
bool learn_tensors(PyObject* type, PyObject* other_type, PyObject* capsule);

// Describes a tensor; false, without an exception, for everything that is not on the CPU, not of
// one of the two types or not of a dtype known here, and if `grad` for what requires a gradient.
bool read(PyObject* object, bool grad, Tensor* tensor);

}  // namespace ctm_fast
