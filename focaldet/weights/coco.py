"""The categories of COCO 2017: 80 names, and their ids, which leave gaps up to 90."""

from __future__ import annotations

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake,
chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
"""
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

NAMES = tuple(name.strip() for name in _NAMES.replace("\n", " ").split(","))
IDS = dict(zip(NAMES, (i for i in range(1, 91) if i not in _UNUSED), strict=True))

# What torchvision's models call the labels that are not in use: 0, and the gaps.
PLACEHOLDERS = ("__background__", "N/A")
_BY_ID = {number: name for name, number in IDS.items()}
NAMES_91 = ("__background__", *(_BY_ID.get(i, "N/A") for i in range(1, 91)))
