"""All of torchvision's networks: classification, segmentation, detection, video, optical flow."""

import torch

from benchmarks.coverage_models import Case
from benchmarks.coverage_models import torchvision_ops as torchvision_ops  # before torchvision

from torchvision import models  # isort: skip

KINDS = (models.segmentation, models.detection, models.video, models.optical_flow)
CLASSIFICATION = tuple(models.list_models(models))
NAMES = (*CLASSIFICATION, *(name for kind in KINDS for name in models.list_models(kind)))
SIZES = {"inception_v3": 299, "regnet_y_128gf": 128, "regnet_y_32gf": 160, "regnet_x_32gf": 160}
# No box is suppressed or dropped: how many there are must not hang on the weights.
TWO_STAGES = {
    **{"rpn_nms_thresh": 1.0, "rpn_score_thresh": 0.0, "rpn_pre_nms_top_n_test": 8},
    **{"rpn_post_nms_top_n_test": 8, "box_nms_thresh": 1.0, "box_score_thresh": 0.0},
    **{"box_detections_per_img": 5, "min_size": 128, "max_size": 128},
}
ONE_STAGE = {"score_thresh": 0.0, "nms_thresh": 1.0, "detections_per_img": 5, "topk_candidates": 4}


def build(name: str) -> Case:
    if name in CLASSIFICATION:
        size = SIZES.get(name, 224)
        weights = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        batch = 2 if name == "inception_v3" else 1  # its auxiliary norms see one pixel
        return Case(models.get_model(name, **weights), torch.randn(batch, 3, size, size))
    if name in models.list_models(models.segmentation):
        model = models.get_model(name, weights_backbone=None)
        return Case(model, torch.randn(2, 3, 96, 96))
    if name in models.list_models(models.video):
        return Case(models.get_model(name), _clip(name))
    if name in models.list_models(models.optical_flow):
        model = models.get_model(name)
        return Case(model, (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128), 2))
    return _detector(name)


def _clip(name: str) -> torch.Tensor:
    frames, size = (16, 224) if "mvit" in name or name == "s3d" else (8, 112)
    return torch.randn(1, 3, frames, size, size)


def _detector(name: str) -> Case:
    """In double precision: where two boxes score alike, rounding must not decide."""
    options = TWO_STAGES if "rcnn" in name else ONE_STAGE
    sizes = {} if "ssd" in name or "rcnn" in name else {"min_size": 128, "max_size": 128}
    model = models.get_model(name, weights_backbone=None, **options, **sizes).double()
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if "bbox" in part or "regression" in part:
                parameter *= 1e-2  # boxes near their anchors: none is outside of the picture
    return Case(model, ([torch.rand(3, 128, 128, dtype=torch.float64)],), trains=False)
