"""torchvision's operations in plain PyTorch, where its compiled library does not load; their rules.

Beside a torch of another build `import torchvision` fails for want of `torchvision::nms`. The rules
are what a user writes for operations of a library of their own.
"""

import sys
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from sparsetrain.shrink.labels import Dims, Tracer
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.rules import rule

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Boxes by falling score, without those that overlap a better one that stays."""
    order = scores.argsort(descending=True, stable=True)
    x1, y1, x2, y2 = boxes[order].unbind(1)
    area = (x2 - x1) * (y2 - y1)
    across = (torch.minimum(x2[:, None], x2) - torch.maximum(x1[:, None], x1)).clamp(min=0)
    along = (torch.minimum(y2[:, None], y2) - torch.maximum(y1[:, None], y1)).clamp(min=0)
    both = across * along
    overlaps = both / (area[:, None] + area - both) > iou_threshold
    stays = torch.ones_like(order, dtype=torch.bool)
    for i in range(len(order)):
        if stays[i]:
            stays[i + 1 :] &= ~overlaps[i, i + 1 :]
    return order[stays]


def roi_align(
    input: Tensor, rois: Tensor, scale: float, height: int, width: int, ratio: int, aligned: bool
) -> Tensor:
    """The mean of ratio * ratio samples in each of height * width cells of every box."""
    offset = 0.5 if aligned else 0.0
    first, last = rois[:, 1:3] * scale - offset, rois[:, 3:] * scale - offset
    size = (last - first) if aligned else (last - first).clamp(min=1)
    axes = []
    for axis, cells, pixels in ((0, width, input.shape[3]), (1, height, input.shape[2])):
        part = (torch.arange(cells * ratio).to(rois) + 0.5) / (cells * ratio)
        at = first[:, axis, None] + size[:, axis, None] * part
        axes.append(at.clamp(0, pixels - 1) * 2 / max(pixels - 1, 1) - 1)
    x, y = axes
    grid = torch.stack(
        [x[:, None].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], dim=-1
    )
    sampled = grid_sample(input[rois[:, 0].long()], grid, align_corners=True)
    return avg_pool2d(sampled, ratio)


def _define() -> None:
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
        " SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor"
    )
    LIBRARY.impl("nms", nms, "CompositeExplicitAutograd")
    LIBRARY.impl("roi_align", roi_align, "CompositeExplicitAutograd")
    torch.library.register_autograd(
        "torchvision::roi_align", _backward, setup_context=_remember, lib=LIBRARY
    )

    import_module("torchvision.ops")
    for module in ("torchvision.extension", "torchvision.ops.roi_align"):
        sys.modules[module]._has_ops = lambda: True


def _remember(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.rest = inputs[2:]


def _backward(ctx, grad: Tensor) -> tuple:
    input, rois = ctx.saved_tensors
    with torch.enable_grad():
        input = input.detach().requires_grad_()
        out = roi_align(input, rois, *ctx.rest)
    return *torch.autograd.grad(out, input, grad), *[None] * 6


def _loads() -> bool:
    """Whether torchvision has a compiled library that fits this torch."""
    try:
        import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # what was imported before it failed
        return False
    return hasattr(torch.ops.torchvision, "nms")


if not _loads():
    _define()


@rule("torchvision::roi_align")
def follow_roi_align(t: Tracer, step: Step) -> Dims:
    """Channels stay, positions change."""
    features, boxes = step.values
    t.fix_all([boxes], f"{step} takes positions from it")
    return [None, t.dims[features][1], None, None]


@rule("torchvision::nms")
def follow_nms(t: Tracer, step: Step) -> Dims:
    """Numbers of boxes."""
    t.fix_all(step.values, f"{step} compares them")
    return [None]
