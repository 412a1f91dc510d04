"""What the pages' commands find in their folder: tiny data and weights under the pages' names."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import torch
import zoo
from PIL import Image

from focaldet.checkpoint import Description, save_checkpoint
from focaldet.data import generate_scenes
from focaldet.data.scenes import CLASSES
from focaldet.models import V2, RetinaNet
from focaldet.models.resnet import ResNet

SIZE = 64  # pixels, the side of a scene
SMALL = {"width": 8, "fpn_channels": 16, "head_depth": 1}
QUICK = f"""[model]
backbone = "resnet50"
min_size = {SIZE}
max_size = {SIZE}
width = 8
fpn_channels = 16
head_depth = 1

[train]
epochs = 1
workers = 0
"""
TRAIN = 4  # scenes to train on; as many again are validated with


def prepare(folder: Path) -> None:
    """Fills an empty folder."""
    scenes = folder / "scenes"
    generate_scenes(scenes, images=2 * TRAIN, seed=1, size=SIZE, objects=(3, 5))
    content = json.loads((scenes / "instances.json").read_text())
    shutil.move(scenes / "images", folder / "images")
    shutil.rmtree(scenes)
    train, val = (_part(content, half) for half in (0, 1))
    for name, part in (("train", train), ("val", val), ("gt", val)):
        (folder / f"{name}.json").write_text(json.dumps(part))
    found = [
        {key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
        for box in val["annotations"]
    ]
    for name in ("dt", "detections"):
        (folder / f"{name}.json").write_text(json.dumps(found))
    (folder / "valid").mkdir()
    for image in val["images"]:
        shutil.copy(folder / "images" / image["file_name"], folder / "valid")
    (folder / "quick.toml").write_text(QUICK)
    _voc(folder, train, val)
    _yolo(folder, train, val)
    _photos(folder)
    _weights(folder)


def _part(content: dict, half: int) -> dict:
    images = content["images"][half * TRAIN : (half + 1) * TRAIN]
    ids = {image["id"] for image in images}
    boxes = [box for box in content["annotations"] if box["image_id"] in ids]
    return content | {"images": images, "annotations": boxes}


def _voc(folder: Path, train: dict, val: dict) -> None:
    """The same scenes in Pascal VOC's form, one box of them without area, as BCCD has some."""
    root = folder / "BCCD_Dataset" / "BCCD"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for split, part in (("train", train), ("val", val)):
        stems = []
        for image in part["images"]:
            source = folder / "images" / image["file_name"]
            Image.open(source).save(root / "JPEGImages" / f"{source.stem}.jpg")
            boxes = [b for b in part["annotations"] if b["image_id"] == image["id"]]
            objects = [_object(CLASSES[b["category_id"] - 1], b["bbox"]) for b in boxes]
            objects += [_object(CLASSES[0], [5, 5, 0, 9])] * (split == "train" and not stems)
            size = f"<size><width>{SIZE}</width><height>{SIZE}</height><depth>3</depth></size>"
            text = f"<annotation>{size}{''.join(objects)}</annotation>"
            (root / "Annotations" / f"{source.stem}.xml").write_text(text)
            stems.append(source.stem)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")


def _yolo(folder: Path, train: dict, val: dict) -> None:
    """The same scenes in YOLO's form."""
    root = folder / "cells"
    for split, part in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for image in part["images"]:
            source = folder / "images" / image["file_name"]
            shutil.copy(source, root / "images" / split)
            lines = [
                " ".join(map(str, (b["category_id"] - 1, *_relative(b["bbox"]))))
                for b in part["annotations"]
                if b["image_id"] == image["id"]
            ]
            (root / "labels" / split / f"{source.stem}.txt").write_text("\n".join(lines))
    splits = "".join(f"{split}: images/{split}\n" for split in ("train", "val"))
    (root / "data.yaml").write_text(f"names: {list(CLASSES)}\n{splits}")


def _relative(box: list[float]) -> tuple[float, ...]:
    x, y, width, height = box
    return tuple(part / SIZE for part in (x + width / 2, y + height / 2, width, height))


def _object(name: str, box: list[float]) -> str:
    x, y, width, height = box
    corners = {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
    tags = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
    return f"<object><name>{name}</name><bndbox>{tags}</bndbox></object>"


def _photos(folder: Path) -> None:
    first, second, *_ = sorted((folder / "images").iterdir())
    (folder / "folder").mkdir()
    for name, source in (("photo", first), ("folder/1", first), ("folder/2", second)):
        Image.open(source).convert("RGB").save(folder / f"{name}.jpg")


def _weights(folder: Path) -> None:
    """A checkpoint of ours, detectors as torchvision and detectron2 have them, and a classifier."""
    (folder / "runs" / "x").mkdir(parents=True)
    model = RetinaNet(3, "resnet18", min_size=SIZE, max_size=SIZE, **SMALL)
    described = Description(model.config, list(CLASSES), [1, 2, 3])
    save_checkpoint(folder / "runs" / "x" / "best.safetensors", model.state_dict(), described)
    theirs = RetinaNet(91, "resnet18", **V2, **SMALL | {"fpn_channels": 32})
    torch.save(theirs.state_dict(), folder / "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth")
    weights = zoo.randomised(zoo.Detectron2(80)).state_dict()
    arrays = {name: value.numpy() for name, value in weights.items()}
    (folder / "RetinaNet_R_50_FPN_3x.pkl").write_bytes(pickle.dumps({"model": arrays}))
    classifier = ResNet("resnet50", width=SMALL["width"]).state_dict()
    torch.save(classifier, folder / "resnet50.pth")
