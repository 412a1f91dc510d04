"""The commands of the pages: how a test runs them, or where they run instead."""

from __future__ import annotations

import shlex

# Runs are short and on the CPU: what a page shows is run with these words behind it, and of an
# option that stands twice the last counts.
CUT = {
    # Not 64 pixels: of 1 x 1 maps (P6) in bfloat16 oneDNN leaves part of a gradient unwritten.
    "train": "--size 96 --epochs 1 --batch-size 2 --workers 0 --device cpu",
    "evaluate": "--workers 0 --device cpu",
    "detect": "--device cpu",
    "explain": "--device cpu",
    "export": "--device cpu",
    "figure 4": "--workers 0 --device cpu",
    "experiment": "--recipe quick.toml --seeds 1 --rows 'FL, gamma 2*' --device cpu",
}

RELEASE = (
    "'SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)' FOCALDET_CUDA=1 "
    "'TORCH_CUDA_ARCH_LIST=7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX' python -m build --sdist --wheel"
)

# Where CI runs what takes long or changes the environment: a text that .ci/run must contain.
IN_CI = {
    "focaldet demo": "focaldet demo",
    "pip install .": 'pip install -v ".[test]"',
    "pip install '.[test]'": 'pip install -v ".[test]"',
    "uv pip install .": "uv pip install -q --no-build-isolation --no-deps .",
    "pip install --no-build-isolation -e .": "pip install -q --no-build-isolation --no-deps -e .",
    "python -m build": "python -m build -q",
    RELEASE: "SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) python -m build",
    "auditwheel repair 'dist/focaldet-*-linux_*.whl' --wheel-dir dist --exclude libc10.so "
    "--exclude libtorch_cpu.so --exclude libtorch_cuda.so": "auditwheel repair",
    "python tests/wheels.py check 'dist/focaldet-*-manylinux*.whl'": "python tests/wheels.py check",
    "python tests/wheels.py try 'dist/focaldet-*-manylinux*.whl' --torch 2.10.0 2.11.0 2.13.0 "
    "2.14.1 newest --json benchmarks/results/wheels/linux.json": "python tests/wheels.py try",
    "pytest -n auto --dist loadfile": "\npytest -n auto --dist loadfile\n",
    "pip install ultralytics==8.4.190 transformers==5.24.0 mmdet==3.3.0 mmengine==0.10.7 "
    "mmcv-lite==2.1.0 fvcore scipy six": "ultralytics==8.4.190 transformers==5.24.0 mmdet==3.3.0",
    "pytest tests/examples": "pytest tests/examples",
    "python -m benchmarks.tables": "python -m benchmarks.tables --check",
}

CONVNEXT = (
    "focaldet train --train train.json --val val.json --images images --out runs/convnext "
    "--backbone timm/convnext_tiny --backbone-weights download"
)

# What nobody runs for the page's sake, and why.
NOT_RUN = {
    **{
        f"python -m benchmarks.bars.{name}": f"tests/test_benchmarks_{name}.py runs it with --quick"
        for name in ("loss", "suppression", "end_to_end", "drop_in", "recipes")
    },
    CONVNEXT: "network; tests/weights has it with a model of timm that is there",
    "git clone https://github.com/Shenggan/BCCD_Dataset": (
        "network; the tests have generated scenes in the same form"
    ),
    "curl -LO https://download.pytorch.org/models/retinanet_resnet50_fpn_v2_coco-5905b1c5.pth": (
        "network; the tests have a slim model of the same layout"
    ),
    "pip install --no-build-isolation .": "as uv's, and as the editable install",
    "bash .ci/run": "it is what runs all of this",
    "python tests/builds.py": "half an hour of builds, before a release",
    "bash benchmarks/gpu.sh": "needs a GPU; tests/test_gpu_command.py runs it without",
}


def elsewhere(words: list[str], ci: str) -> bool:
    """Whether the command is run by CI, or not at all; AssertionError if CI does not run it."""
    text = shlex.join(words)
    if text in IN_CI:
        assert IN_CI[text] in ci, f".ci/run does not run it: no {IN_CI[text]!r} there"
    return text in IN_CI or text in NOT_RUN


def shortened(words: list[str]) -> list[str]:
    """The arguments of a command `focaldet ...`, with those that cut it short."""
    cut = next((CUT[name] for name in (" ".join(words[1:3]), *words[1:2]) if name in CUT), "")
    return [*words[1:], *shlex.split(cut)]


def launched(words: list[str]) -> list[str]:
    """The command that torchrun would start, in many processes; its own options are checked here.
    tests/train/test_ranks.py starts it."""
    from torch.distributed.run import parse_args

    options = parse_args(words[1:])
    assert (options.module, options.training_script) == (True, "focaldet"), words
    return ["focaldet", *options.training_script_args]


def outputs(words: list[str]) -> list[str]:
    """What the command writes."""
    return [value for option, value in zip(words, words[1:], strict=False) if option == "--out"]
