#!/usr/bin/env bash
# Builds, tests, sanitizes and times focaldet on the GPU of this machine: benchmarks/gpu/.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(command -v python3 || command -v python) || {
  echo "benchmarks: error: there is no python3 on PATH" >&2
  exit 2
}
exec "$python" -m benchmarks.gpu "$@"
