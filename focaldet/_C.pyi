version: str
built_with_torch: str
compiler: str
simd_level: str
