#if TANGRAM_HAS_CUDNN
#include <cudnn.h>
#include <nvrtc.h>

#include "kernels/error.h"
#include "kernels/shared_library.h"

// cuDNN's functions that its frontend calls, defined here under their own names: each opens the library when it is
// first called and goes on there. So a binary starts where the library is not installed, and finds it among a Python's
// wheels.

namespace tangram::cuda {
namespace {

template <class F>
F* function(const char* name) {
  static const SharedLibrary library({fmt::format("libcudnn.so.{}", CUDNN_MAJOR)},
                                     fmt::format("install cuDNN {}, or `pip install nvidia-cudnn-cu13=={}.*` for the "
                                                 "python3 that comes first on the PATH",
                                                 CUDNN_MAJOR, CUDNN_MAJOR));
  return library.function<F*>(name);
}

}  // namespace
}  // namespace tangram::cuda

#define FORWARD(result, name, parameters, arguments)                                                          \
  extern "C" result CUDNNWINAPI name parameters {                                                             \
    static auto* const in_library = tangram::cuda::function<std::remove_pointer_t<decltype(&::name)>>(#name); \
    return in_library arguments;                                                                              \
  }

FORWARD(size_t, cudnnGetVersion, (void), ())
FORWARD(const char*, cudnnGetErrorString, (cudnnStatus_t status), (status))
FORWARD(void, cudnnGetLastErrorString, (char* message, size_t size), (message, size))
FORWARD(cudnnStatus_t, cudnnCreate, (cudnnHandle_t * handle), (handle))
FORWARD(cudnnStatus_t, cudnnDestroy, (cudnnHandle_t handle), (handle))
FORWARD(cudnnStatus_t, cudnnSetStream, (cudnnHandle_t handle, cudaStream_t stream), (handle, stream))
FORWARD(cudnnStatus_t, cudnnGetStream, (cudnnHandle_t handle, cudaStream_t* stream), (handle, stream))

FORWARD(cudnnStatus_t, cudnnBackendCreateDescriptor,
        (cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor), (type, descriptor))
FORWARD(cudnnStatus_t, cudnnBackendDestroyDescriptor, (cudnnBackendDescriptor_t descriptor), (descriptor))
FORWARD(cudnnStatus_t, cudnnBackendFinalize, (cudnnBackendDescriptor_t descriptor), (descriptor))
FORWARD(cudnnStatus_t, cudnnBackendSetAttribute,
        (cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
         int64_t count, const void* elements),
        (descriptor, name, type, count, elements))
FORWARD(cudnnStatus_t, cudnnBackendGetAttribute,
        (cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
         int64_t most, int64_t* count, void* elements),
        (descriptor, name, type, most, count, elements))
FORWARD(cudnnStatus_t, cudnnBackendExecute,
        (cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t memory), (handle, plan, memory))

// What the frontend calls for operations that are not used here.
extern "C" cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t*) { return CUDNN_STATUS_NOT_SUPPORTED; }
extern "C" cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t) { return CUDNN_STATUS_NOT_SUPPORTED; }
extern "C" cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t, cudnnDataType_t, cudnnTensorFormat_t, int,
                                                    const int[]) {
  return CUDNN_STATUS_NOT_SUPPORTED;
}
extern "C" cudnnStatus_t cudnnReorderFilterAndBias(cudnnHandle_t, const cudnnFilterDescriptor_t, cudnnReorderType_t,
                                                   const void*, void*, int, const void*, void*) {
  return CUDNN_STATUS_NOT_SUPPORTED;
}
extern "C" nvrtcResult nvrtcCreateProgram(nvrtcProgram*, const char*, const char*, int, const char* const*,
                                          const char* const*) {
  return NVRTC_ERROR_INTERNAL_ERROR;
}
extern "C" nvrtcResult nvrtcDestroyProgram(nvrtcProgram*) { return NVRTC_ERROR_INTERNAL_ERROR; }
extern "C" nvrtcResult nvrtcCompileProgram(nvrtcProgram, int, const char* const*) { return NVRTC_ERROR_INTERNAL_ERROR; }
extern "C" nvrtcResult nvrtcGetCUBINSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }
extern "C" nvrtcResult nvrtcGetCUBIN(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }
extern "C" nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram, size_t*) { return NVRTC_ERROR_INTERNAL_ERROR; }
extern "C" nvrtcResult nvrtcGetProgramLog(nvrtcProgram, char*) { return NVRTC_ERROR_INTERNAL_ERROR; }
#endif
