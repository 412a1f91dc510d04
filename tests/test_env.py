"""What `focaldet env` reports."""

from importlib.util import find_spec

import torch

import focaldet
from focaldet.env import report


def test_report_names_versions_and_what_runs():
    text = report()
    assert f"{focaldet.__version__}, built with torch" in text
    assert torch.__version__ in text
    assert f"{focaldet._C.simd_level}, {torch.get_num_threads()} threads" in text
    for name in ("python:", "packages:", "CPU kernels:", "CUDA kernels:", "GPU:"):
        assert name in text


def test_cuda_kernels_are_loaded_where_they_were_built_and_torch_has_cuda():
    built = find_spec("focaldet._C_cuda") is not None
    assert (focaldet._C_cuda is not None) == (built and torch.version.cuda is not None)
    if focaldet._C_cuda is None:
        expected = "without CUDA" if torch.version.cuda else "CPU only"
        assert expected in focaldet.cuda_reason and expected in report()
    else:
        assert focaldet._C_cuda.archs in report()
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        assert has_kernel("focaldet::sigmoid_focal_loss", "CUDA")
