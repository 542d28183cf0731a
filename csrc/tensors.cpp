// Reading tensors through DLPack's exchange table (version 1, github.com/dmlc/dlpack).

#include "tensors.h"

#include <algorithm>
#include <initializer_list>

namespace ctm_fast {
namespace {

using Int = std::int64_t;

struct DLTensor {
  void* data;
  std::int32_t device, device_index, dimensions;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  const Int *shape, *strides;
  std::uint64_t byte_offset;
};

struct ExchangeTable {
  std::uint32_t major, minor;
  void* previous;
  void *allocate, *export_owned, *import_owned;
  int (*describe)(void* object, DLTensor* out);
};

constexpr std::int32_t kCpu = 1;
constexpr std::uint8_t kFloat = 2, kBfloat = 4;

PyObject *tensor_type = nullptr, *other_tensor_type = nullptr;
PyObject* requires_grad = nullptr;
int (*describe)(void* object, DLTensor* out) = nullptr;

bool dtype_of(const DLTensor& t, Dtype* dtype) {
  if (t.lanes != 1) return false;
  if (t.code == kFloat && t.bits == 32)
    *dtype = Dtype::float32;
  else if (t.code == kFloat && t.bits == 16)
    *dtype = Dtype::float16;
  else if (t.code == kFloat && t.bits == 64)
    *dtype = Dtype::float64;
  else if (t.code == kBfloat && t.bits == 16)
    *dtype = Dtype::bfloat16;
  else
    return false;
  return true;
}

// Whether elements follow each other without a gap, the last of `order` fastest.
bool dense(const Tensor& t, std::initializer_list<int> order) {
  Int expected = 1;
  for (const int* d = order.end(); d != order.begin();) {
    --d;
    if (t.shape[*d] != 1 && t.strides[*d] != expected) return false;
    expected *= t.shape[*d];
  }
  return true;
}

}  // namespace

bool Tensor::same_shape(const Tensor& other) const {
  return dimensions == other.dimensions && std::equal(shape, shape + dimensions, other.shape);
}

bool Tensor::contiguous() const { return dimensions == 4 && dense(*this, {0, 1, 2, 3}); }

bool Tensor::channels_last() const { return dimensions == 4 && dense(*this, {0, 2, 3, 1}); }

bool learn_tensors(PyObject* type, PyObject* other_type, PyObject* capsule) {
  const void* table = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  if (table == nullptr) {
    PyErr_Clear();
    return false;
  }
  const auto& exchange = *static_cast<const ExchangeTable*>(table);
  if (exchange.major != 1 || exchange.describe == nullptr) return false;
  if (requires_grad == nullptr) requires_grad = PyUnicode_InternFromString("requires_grad");
  describe = exchange.describe;
  Py_INCREF(type);
  Py_INCREF(other_type);
  tensor_type = type;
  other_tensor_type = other_type;
  return true;
}

bool read(PyObject* object, bool grad, Tensor* tensor) {
  if (describe == nullptr) return false;
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (type != tensor_type && type != other_tensor_type) return false;
  if (grad) {
    PyObject* wanted = PyObject_GetAttr(object, requires_grad);
    Py_XDECREF(wanted);
    if (wanted == nullptr) PyErr_Clear();
    if (wanted != Py_False) return false;
  }
  DLTensor t;
  if (describe(object, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  tensor->data = static_cast<char*>(t.data) + t.byte_offset;
  tensor->dimensions = t.dimensions;
  tensor->shape = t.shape;
  tensor->strides = t.strides;
  return t.device == kCpu && t.strides != nullptr && dtype_of(t, &tensor->dtype);
}

}  // namespace ctm_fast
