"""Ultralytics' detectors: YOLO v3 to v12 and RT-DETR, the smallest of each, with random weights."""

import torch

from benchmarks.coverage_models import Case
from benchmarks.coverage_models import torchvision_ops as torchvision_ops  # before torchvision

from ultralytics.nn import tasks  # isort: skip

PIXELS = 128
MODELS = {
    "": tasks.DetectionModel,
    "seg": tasks.SegmentationModel,
    "pose": tasks.PoseModel,
    "obb": tasks.OBBModel,
    "cls": tasks.ClassificationModel,
}
NAMES = (
    "yolov3-tiny",
    *("yolov5n", "yolov6n"),
    *("yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "yolov8n-ghost"),
    *("yolov9t", "yolov10n"),
    *("yolo11n", "yolo11n-seg", "yolo11n-pose", "yolo11n-obb", "yolo11n-cls"),
    "yolo12n",
    *("rtdetr-l", "yolov8n-rtdetr"),
)


def build(name: str) -> Case:
    task = name.rpartition("-")[2]
    kind = tasks.RTDETRDetectionModel if "rtdetr" in name else MODELS.get(task, MODELS[""])
    model = kind(f"{name}.yaml", verbose=False)
    # RT-DETR's training mode asks for labels.
    return Case(model.eval(), torch.randn(2, 3, PIXELS, PIXELS), trains="rtdetr" not in name)
