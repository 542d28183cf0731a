// The group norm as one call on tensors, for where nothing records it: a network of 73 norms spends
// more time on Python's attributes than on the arithmetic of a small image.

#include <limits>

#include "bindings.h"
#include "group_norm.h"
#include "tensors.h"

namespace py = pybind11;

namespace ctm_fast {
namespace {

using Int = std::int64_t;

enum Argument {
  kX,
  kGroups,
  kWeight,
  kBias,
  kEps,
  kScale,
  kShift,
  kPre,
  kAct,
  kResidual,
  kResidualScale,
  kTail,
  kY,
  kJoined,
  kThreads,
  kGrad,
  kArguments
};

// A number that is an int or a float and nothing else.
bool number(PyObject* object, double* value) {
  if (!PyFloat_CheckExact(object) && !PyLong_CheckExact(object)) return false;
  *value = PyFloat_AsDouble(object);
  if (*value != -1.0 || !PyErr_Occurred()) return true;
  PyErr_Clear();
  return false;
}

bool whole(PyObject* object, Int* value) {
  int overflow = 0;
  if (!PyLong_CheckExact(object)) return false;
  *value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0;
}

bool truth(PyObject* object, bool* value) {
  *value = object == Py_True;
  return *value || object == Py_False;
}

// Reads the images of a call: x, and what is added, appended and written. Empty ones are refused.
class Images {
 public:
  Images(PyObject* const* args, bool grad) : args_(args), grad_(grad) {}

  bool read_into(GroupNorm* op, Results* results) {
    Tensor x, y;
    if (!image(kX, &x) || !image(kY, &y)) return false;
    Join& join = results->join;
    join = {x.data,     nullptr,    nullptr,           nullptr,
            x.shape[0], x.shape[1], y.shape[1],        x.shape[2] * x.shape[3],
            x.dtype,    false,      op->residual_scale};
    if (!absent(kResidual)) {
      Tensor residual;
      if (!image(kResidual, &residual) || !residual.same_shape(x)) return false;
      join.residual = residual.data;
    }
    Int channels = join.head;
    if (!absent(kTail)) {
      Tensor tail;
      if (!image(kTail, &tail)) return false;
      for (const int d : {0, 2, 3})
        if (tail.shape[d] != x.shape[d]) return false;
      join.tail = tail.data;
      channels += tail.shape[1];
    }
    for (const int d : {0, 2, 3})
      if (y.shape[d] != x.shape[d]) return false;
    const bool joins = join.residual != nullptr || join.tail != nullptr;
    if (channels != y.shape[1] || joins == absent(kJoined)) return false;
    if (joins) {
      Tensor joined;
      if (!image(kJoined, &joined) || !joined.same_shape(y)) return false;
      join.joined = joined.data;
    }
    if (join.batch < 1 || join.head < 1 || join.pixels < 1 || x.dtype == Dtype::float64 ||
        channels > std::numeric_limits<Int>::max() / 16 / join.batch / join.pixels)
      return false;
    // Where both orders fit, the longer rows win.
    join.channels_last = last_ && (!plain_ || channels > join.pixels);
    op->x = x.data;
    op->batch = join.batch;
    op->channels = channels;
    op->pixels = join.pixels;
    op->dtype = x.dtype;
    op->channels_last = join.channels_last;
    results->y = y.data;
    return plain_ || last_;
  }

 private:
  bool absent(Argument which) const { return args_[which] == Py_None; }

  // Every one must have x's dtype, and all of them one memory order.
  bool image(Argument which, Tensor* t) {
    if (!read(args_[which], grad_, t) || t->dimensions != 4) return false;
    if (which == kX) dtype_ = t->dtype;
    plain_ = plain_ && t->contiguous();
    last_ = last_ && t->channels_last();
    return t->dtype == dtype_;
  }

  PyObject* const* args_;
  bool grad_, plain_ = true, last_ = true;
  Dtype dtype_ = Dtype::float32;
};

// weight, bias: (channels,); the others (batch or 1, channels) or None
bool factor(PyObject* object, bool grad, bool rows, const GroupNorm& op, Factor* factor) {
  *factor = {nullptr, 0, Dtype::float32};
  if (rows && object == Py_None) return true;
  Tensor t;
  if (!read(object, grad, &t) || t.dimensions != (rows ? 2 : 1)) return false;
  const int last = t.dimensions - 1;
  if (t.dtype == Dtype::float64 || t.shape[last] != op.channels) return false;
  if (t.strides[last] != 1 && op.channels > 1) return false;
  if (rows && t.shape[0] != op.batch && t.shape[0] != 1) return false;
  *factor = {t.data, rows && t.shape[0] > 1 ? t.strides[0] : 0, t.dtype};
  return true;
}

// True if it was computed; False, with nothing written, where it takes the ordinary way: for
// anything unusual, also for errors, which that one explains.
PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count) {
  GroupNorm op;
  Results results;
  Int threads;
  double eps, residual_scale;
  bool grad;
  if (count != kArguments || !whole(args[kGroups], &op.groups) || !number(args[kEps], &eps) ||
      !truth(args[kAct], &op.act) || !number(args[kResidualScale], &residual_scale) ||
      !whole(args[kThreads], &threads) || !truth(args[kGrad], &grad))
    Py_RETURN_FALSE;
  op.residual_scale = static_cast<float>(residual_scale);
  const auto rows = [&](Argument which, Factor* to) {
    return factor(args[which], grad, which > kBias, op, to);
  };
  if (!Images(args, grad).read_into(&op, &results) || !rows(kWeight, &op.weight) ||
      !rows(kBias, &op.bias) || !rows(kScale, &op.scale) || !rows(kShift, &op.shift) ||
      !rows(kPre, &op.pre) || !(eps >= 0.0) || op.groups < 1 || op.channels % op.groups != 0 ||
      threads < 1)
    Py_RETURN_FALSE;
  results.mean = results.rstd = nullptr;
  try {
    const py::gil_scoped_release release;
    group_norm_cpu(op, eps, results, static_cast<int>(threads));
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  Py_RETURN_TRUE;
}

PyMethodDef methods[] = {
    {"group_norm_call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call)),
     METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

void bind_group_norm_call(py::module_& module) {
  if (PyModule_AddFunctions(module.ptr(), methods) != 0) throw py::error_already_set();
  module.def("learn_tensors", [](py::object type, py::object other, py::object capsule) {
    return learn_tensors(type.ptr(), other.ptr(), capsule.ptr());
  });
}

}  // namespace ctm_fast
