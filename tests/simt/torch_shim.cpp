// What csrc asks of torch and a CUDA build of it would answer: these definitions bind before
// libtorch's. Fresh tensors are filled with poison on the way, so that an output which a kernel
// leaves unwritten differs between seeds.
#include <dlfcn.h>
#include <torch/csrc/stable/c/shim.h>

#include <cstdlib>
#include <cstring>

#include "runtime.h"

extern "C" {

AOTITorchError torch_call_dispatcher(const char* op, const char* overload, StableIValue* stack,
                                     uint64_t abi_version) {
  static const auto dispatch =
      reinterpret_cast<decltype(&torch_call_dispatcher)>(dlsym(RTLD_NEXT, "torch_call_dispatcher"));
  const AOTITorchError error = dispatch(op, overload, stack, abi_version);
  if (error != AOTI_TORCH_SUCCESS) return error;
  if (std::strcmp(op, "aten::new_empty") == 0 || std::strcmp(op, "aten::empty_like") == 0) {
    const auto tensor = reinterpret_cast<AtenTensorHandle>(stack[0]);
    void* data;
    int64_t elements;
    int32_t dtype;
    aoti_torch_get_data_ptr(tensor, &data);
    aoti_torch_get_numel(tensor, &elements);
    aoti_torch_get_dtype(tensor, &dtype);
    simt::poison(data, static_cast<size_t>(elements) * aoti_torch_dtype_element_size(dtype));
  }
  return error;
}

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return AOTI_TORCH_SUCCESS; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_c10_cuda_check_msg(int32_t error, const char*, const char*, uint32_t, bool,
                                        char** message) {
  if (error != 0) *message = strdup(simt::last_error().c_str());
  return AOTI_TORCH_SUCCESS;
}
void torch_c10_cuda_free_error_msg(char* message) { std::free(message); }
}
