"""Which GPUs the CUDA kernels of a build serve."""

from __future__ import annotations

import re


def kernels_for(capability: tuple[int, int], archs: str) -> str:
    """What a build for `archs`, in TORCH_CUDA_ARCH_LIST's form such as "8.0;9.0a;12.0+PTX", has for
    a GPU of this compute capability, as `focaldet env` prints it.

    Code for X.Y runs on X.Z with Z >= Y; for X.Ya on X.Y alone; for X.Yf as for X.Y. PTX of X.Y is
    compiled by the driver for any later GPU; that of X.Ya for X.Y alone, that of X.Yf for X.Z.
    """
    known = [_Arch.read(word) for word in re.split(r"[;\s]+", archs.strip()) if word]
    if None in known or not known:
        return f"built for {archs or 'unknown architectures'}"
    built = [arch for arch in known if arch is not None]
    if any(arch.code_runs_on(capability) for arch in built):
        return "kernels built for it"
    if any(arch.ptx_runs_on(capability) for arch in built):
        return "kernels as PTX, which the driver compiles when they are first used"
    wanted = ".".join(map(str, capability))
    return (
        f"no kernels: this build has {archs}; in the source folder, "
        f'TORCH_CUDA_ARCH_LIST="{wanted}" FOCALDET_CUDA=1 pip install . builds them'
    )


class _Arch:
    """One word of TORCH_CUDA_ARCH_LIST."""

    def __init__(self, major: int, minor: int, kind: str, ptx: bool) -> None:
        self.capability, self.kind, self.ptx = (major, minor), kind, ptx

    @staticmethod
    def read(word: str) -> _Arch | None:
        """None for words that are no numbers: "native", "Hopper"."""
        found = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", word)
        return _Arch(int(found[1]), int(found[2]), found[3], bool(found[4])) if found else None

    def code_runs_on(self, capability: tuple[int, int]) -> bool:
        if self.kind == "a":
            return capability == self.capability
        return capability[0] == self.capability[0] and capability >= self.capability

    def ptx_runs_on(self, capability: tuple[int, int]) -> bool:
        if self.kind:
            return self.ptx and self.code_runs_on(capability)
        return self.ptx and capability >= self.capability
