"""Experiments on tiny scenes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from short_experiment import SHORT, TINY, Start

from focaldet.data import DetectionDataset, generate_scenes
from focaldet.data.folder import open_folder
from focaldet.data.transforms import Transform
from focaldet.experiments import Experiment, run_experiment
from focaldet.recipes import Configuration


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    generate_scenes(folder, images=2, seed=1, size=64, objects=(3, 5))
    for split in ("train", "val"):
        shutil.copy(folder / "instances.json", folder / f"instances_{split}.json")
    return folder


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Start:
    """Runs an experiment, and returns its results."""
    torch.set_num_threads(1)

    def open_split(split: str, transform: Transform) -> DetectionDataset:
        return open_folder(data, split, transform=transform)

    def start(
        experiment: Experiment = SHORT,
        seeds: int = 1,
        out: str = "out",
        setup: Configuration = TINY,
        weights: Sequence[Path] = (),
        note: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Any]:
        file = run_experiment(
            experiment,
            setup,
            open_split,
            tmp_path / out,
            range(seeds),
            backbone_weights=weights,
            note=note,
        )
        results: dict[str, Any] = json.loads(file.read_text())
        return results

    return start
