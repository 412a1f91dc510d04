"""What `focaldet env` reports, and what a tree without its extension says."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import focaldet
from focaldet.env import report

ROOT = Path(__file__).parents[1]


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


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the source folder is not here")
def test_an_unbuilt_source_tree_says_what_to_run(tmp_path):
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "focaldet", tmp_path / "focaldet", ignore=ignore)
    # Without the finder of an editable install, which would find the extension elsewhere.
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
        "import focaldet"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: focaldet: the extension focaldet._C is not built here")
    assert "pip install" in last
