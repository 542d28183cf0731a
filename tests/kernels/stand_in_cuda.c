// Stands for libcuda where there is no GPU: every call succeeds, and the last launch is kept.
#include <cuda.h>
#include <stdint.h>

// Grid, threads, shared memory, stream, then the first four bytes of each parameter.
uint32_t last_launch[16];
int launches = 0;
int parameters = 0;  // how many the kernels of the test have, at most 10

CUresult cuLaunchKernelEx(const CUlaunchConfig* how, CUfunction f, void** values, void** extra) {
  const uint32_t start[] = {how->gridDimX,  how->gridDimY,       how->gridDimZ,
                            how->blockDimX, how->sharedMemBytes, (uint32_t)(uintptr_t)how->hStream};
  for (int i = 0; i < 6; ++i) last_launch[i] = start[i];
  for (int i = 0; i < parameters; ++i) last_launch[6 + i] = *(uint32_t*)values[i];
  ++launches;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute what, CUfunction f) {
  *value = what == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute what, CUdevice device) {
  *value = 227 * 1024;  // plenty of whatever is asked for
  return CUDA_SUCCESS;
}
CUresult cuPointerGetAttribute(void* value, CUpointer_attribute what, CUdeviceptr pointer) {
  *(CUdeviceptr*)value = pointer;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** words) {
  *words = "error";
  return CUDA_SUCCESS;
}

#define HANDLE ((void*)8)
#define SUCCEED(name, arguments, action) \
  CUresult name arguments {              \
    action;                              \
    return CUDA_SUCCESS;                 \
  }
SUCCEED(cuDeviceGet, (CUdevice * device, int index), *device = index)
SUCCEED(cuCtxGetCurrent, (CUcontext * context), *context = HANDLE)
SUCCEED(cuCtxSetCurrent, (CUcontext context), )
SUCCEED(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device), *context = HANDLE)
SUCCEED(cuModuleLoadData, (CUmodule * module, const void* image), *module = HANDLE)
SUCCEED(cuModuleGetFunction, (CUfunction * f, CUmodule module, const char* name), *f = HANDLE)
SUCCEED(cuFuncSetCacheConfig, (CUfunction f, CUfunc_cache what), )
SUCCEED(cuFuncSetAttribute, (CUfunction f, CUfunction_attribute what, int value), )
SUCCEED(cuCtxGetLimit, (size_t* value, CUlimit what), *value = 0)
SUCCEED(cuCtxSetLimit, (CUlimit what, size_t value), )
SUCCEED(cuDriverGetVersion, (int* version), *version = 13000)
SUCCEED(cuOccupancyMaxActiveClusters, (int* n, CUfunction f, const CUlaunchConfig* how), *n = 1)
