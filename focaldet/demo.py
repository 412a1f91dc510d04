"""`focaldet demo`: the whole way from data to detections in a few minutes on two cores."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from PIL import Image

from .checkpoint import load_model
from .data import CocoDataset, eval_transform, generate_scenes, train_transform
from .detect import boxes_of, detect_batch
from .evaluate import Scores
from .files import new_folder, write_atomically
from .models import RetinaNet
from .ops import AnchorGrid
from .plots import draw_boxes, side_by_side
from .train import BEST, Recipe, train

SIZE = 160  # pixels, the side of a scene
OBJECTS, OBJECT_SIZE = (10, 25), (12, 32)  # in a scene; in pixels
TRAIN_IMAGES, VAL_IMAGES, EPOCHS = 400, 60, 10
PICTURES = 6
SHOWN_FROM = 0.5  # score of the detections in the pictures


def demo(
    out: str | Path,
    seed: int = 0,
    train_images: int = TRAIN_IMAGES,
    val_images: int = VAL_IMAGES,
    epochs: int = EPOCHS,
) -> Scores:
    """Generates scenes, trains a small RetinaNet on them, evaluates it and draws what it detects.

    Writes to the folder `out`, which must be new or empty: the scenes (`scenes/`), the training
    run (see `train`), `metrics.json` and `pictures/`. Returns the scores on the validation scenes.
    """
    start = time.perf_counter()
    out = new_folder(out)
    print(f"generating {train_images} + {val_images} scenes with many small objects", flush=True)
    datasets = []
    for name, count, scene_seed, transform in (
        ("train", train_images, 2 * seed, train_transform(SIZE, vertical_flip=0.5)),
        ("val", val_images, 2 * seed + 1, eval_transform(SIZE)),
    ):
        folder = out / "scenes" / name
        annotations = generate_scenes(
            folder,
            images=count,
            seed=scene_seed,
            size=SIZE,
            objects=OBJECTS,
            object_size=OBJECT_SIZE,
        )
        datasets.append(CocoDataset(annotations, folder / "images", transform=transform))
    train_set, val_set = datasets

    torch.manual_seed(seed)
    model = small_model(train_set.num_classes)
    recipe = Recipe(epochs=epochs, eval_every=5, lr=4e-3, seed=seed, workers=1)
    scores = train(model, train_set, val_set, out, recipe)
    draw_pictures(out / BEST, val_set, out / "pictures")

    seconds = time.perf_counter() - start
    report = {"seed": seed, "seconds": round(seconds, 1), **scores}
    write_atomically(out / "metrics.json", (json.dumps(report, indent=1) + "\n").encode())
    stats = scores["stats"]
    print(f"\nAP       {stats['AP']:.3f}\nAP50     {stats['AP50']:.3f}\nseconds  {seconds:.0f}")
    print(f"detections beside the ground truth: {out / 'pictures'}")
    return scores


def small_model(num_classes: int) -> RetinaNet:
    """A slim ResNet-18 with a slim head, and anchors from 12 pixels.

    The scenes' objects are about as wide as high: one aspect ratio is enough. GroupNorm in the
    head lets so short a training use a high learning rate.
    """
    return RetinaNet(
        num_classes,
        "resnet18",
        width=24,
        fpn_channels=64,
        head_depth=2,
        head_norm="group",
        anchor_grid=AnchorGrid.torchvision(sizes=[12, 24, 48, 96, 192], aspect_ratios=[1.0]),
        min_size=SIZE,
        max_size=SIZE,
    )


def draw_pictures(weights: Path, dataset: CocoDataset, folder: Path) -> None:
    """Detections beside the ground truth, for the first images of the data set."""
    model, description = load_model(weights)
    model.score_thresh = SHOWN_FROM
    folder.mkdir()
    for index in range(min(PICTURES, len(dataset))):
        image, target = dataset[index]
        picture = dataset.read(index)
        (found,) = detect_batch(model, [image], [target["original_size"]])
        # The scenes are small: three times their size shows the boxes apart.
        large = picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.BICUBIC)
        panels = {}
        for title, items in (
            (f"detections, score above {SHOWN_FROM:g}", found),
            ("ground truth", target),
        ):
            boxes = boxes_of({**items, "boxes": 3 * items["boxes"]}, description.class_names)
            panels[title] = draw_boxes(large, boxes, tags=False)
        sheet = side_by_side(list(panels.items()), description.class_names)
        sheet.save(folder / f"{index + 1}.png")
