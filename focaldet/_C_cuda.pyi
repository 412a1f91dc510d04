version: str
built_with_torch: str
cuda_version: str
archs: str
cudart: str
