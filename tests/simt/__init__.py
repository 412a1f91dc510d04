"""The CUDA kernels on the host: runtime.h says how, kernels.py how tests reach them."""
