"""The layers that `sparsetrain bench layers` times, and the presets of what is asked of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from sparsetrain import models
from sparsetrain.support.nearest import unknown

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
PATTERNS = ("unstructured", "vector:4", "vector:8", "vector:16")
PASSES = ("forward", "training")
Form = tuple[str, float]  # pattern, sparsity


@dataclass(frozen=True)
class Layer:
    """A convolution on images of `size` rows and columns, or, of size 0, a linear layer.

    Attributes:
        count: how often its network has it.
        tokens: rows of a linear layer's input for each sample.
    """

    network: str
    inputs: int
    outputs: int
    size: int = 0
    kernel: int = 1
    stride: int = 1
    count: int = 1
    tokens: int = 1

    @property
    def name(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        place = f" {self.kernel}x{self.kernel}{stride} @{self.size}" if self.size else ""
        return f"{self.network} {self.inputs}-{self.outputs}{place}"

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def positions(self) -> int:
        """Outputs of one channel for one sample."""
        if not self.size:
            return self.tokens
        return ((self.size + 2 * self.padding - self.kernel) // self.stride + 1) ** 2

    def module(self) -> nn.Conv2d | nn.Linear:
        """The dense layer, without bias."""
        if not self.size:
            return nn.Linear(self.inputs, self.outputs, bias=False)
        shape = (self.inputs, self.outputs, self.kernel, self.stride, self.padding)
        return nn.Conv2d(*shape, bias=False)

    def x(self, batch: int) -> Tensor:
        if not self.size:
            return torch.randn(batch * self.tokens, self.inputs)
        return torch.randn(batch, self.inputs, self.size, self.size)


@dataclass(frozen=True)
class Problem:
    """One layer and batch; all forms and passes are timed against the same dense contenders."""

    layer: Layer
    batch: int
    forms: tuple[Form, ...]
    passes: tuple[str, ...] = PASSES

    @property
    def name(self) -> str:
        return f"{self.layer.name}, batch {self.batch}"

    def flops(self, live: int) -> int:
        """Of a forward pass with that many weights."""
        return 2 * live * self.layer.positions * self.batch


@cache
def layers_of(network: str) -> tuple[Layer, ...]:
    """The layers of a network whose weights are worth pruning: the first and last stay dense."""
    return NETWORKS[network]()


def bars() -> list[Problem]:
    """What the project promises of single layers, and what break-even needs besides."""
    thin = (0.9, 0.95, 0.98)
    forms = (
        *(("unstructured", sparsity) for sparsity in thin),
        *(("vector:4", sparsity) for sparsity in (0.2, 0.5, *thin)),
    )
    linear = Problem(layers_of("linear")[0], 256, forms)
    return [*(Problem(layer, 32, forms) for layer in layers_of("vgg19")), linear]


def everything() -> list[Problem]:
    """All layers of all networks at batches 1, 16 and 128."""
    forms = tuple((pattern, sparsity) for pattern in PATTERNS for sparsity in SPARSITIES)
    layers = [layer for network in NETWORKS for layer in layers_of(network)]
    return [
        Problem(layer, batch, forms)
        for layer in layers
        for batch in ((256,) if layer.network == "linear" else (1, 16, 128))
    ]


PRESETS: dict[str, Callable[[], list[Problem]]] = {"bars": bars, "all": everything}


def chosen(
    preset: str,
    networks: Sequence[str] = (),
    batches: Sequence[int] = (),
    sparsities: Sequence[float] = (),
    patterns: Sequence[str] = (),
) -> list[Problem]:
    """The problems of a preset with only what is named; nothing named means all.

    Raises:
        ValueError: there is no such preset or network, or nothing is left.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    for network in networks:
        if network not in NETWORKS:
            raise unknown("network", network, NETWORKS)
    found = [
        replace(problem, forms=forms)
        for problem in PRESETS[preset]()
        if (forms := named_forms(problem.forms, patterns, sparsities))
        if not networks or problem.layer.network in networks
        if not batches or problem.batch in batches
    ]
    if not found:
        raise ValueError(f"bench layers: preset {preset!r} has nothing of what was named")
    return found


def named_forms(
    forms: Sequence[Form], patterns: Sequence[str], sparsities: Sequence[float]
) -> tuple[Form, ...]:
    """Those of the patterns and sparsities that are named; none named means all."""
    return tuple(
        (pattern, sparsity)
        for pattern, sparsity in forms
        if (not patterns or pattern in patterns) and (not sparsities or sparsity in sparsities)
    )


def _of_model(name: str, image_size: int) -> tuple[Layer, ...]:
    """The convolutions of one of our models, each shape once."""
    found: Counter[Layer] = Counter()

    def note(module: nn.Conv2d, arguments: tuple[Tensor, ...], _: Tensor) -> None:
        size, (kernel, stride) = arguments[0].shape[-1], (module.kernel_size[0], module.stride[0])
        shape = (module.in_channels, module.out_channels, size, kernel, stride)
        found[Layer(name, *shape)] += 1

    with torch.device("meta"):
        model = models.build(name, classes=10, image_size=image_size)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        for module in convolutions[1:]:
            module.register_forward_hook(note)
        model.eval()(torch.empty(1, 3, image_size, image_size))
    return tuple(replace(layer, count=count) for layer, count in found.items())


def _pointwise() -> tuple[Layer, ...]:
    """MobileNet's 1x1 convolutions, of width 1 at 224x224."""
    shapes = (
        (32, 64, 112, 1),
        (64, 128, 56, 1),
        (128, 256, 28, 1),
        (256, 512, 14, 1),
        (512, 512, 14, 5),
        (512, 1024, 7, 1),
        (1024, 1024, 7, 1),
    )
    return tuple(Layer("mobilenet", i, o, size, count=n) for i, o, size, n in shapes)


def _transformer(name: str, tokens: int, attention: tuple[tuple[int, int, int], ...]):
    """The linear layers of 12 blocks of width 768."""
    shapes = (*attention, (768, 3072, 12), (3072, 768, 12))
    return tuple(Layer(name, i, o, count=count, tokens=tokens) for i, o, count in shapes)


NETWORKS: dict[str, Callable[[], tuple[Layer, ...]]] = {
    "vgg19": partial(_of_model, "vgg19", 32),
    "resnet18": partial(_of_model, "resnet18", 224),
    "resnet50": partial(_of_model, "resnet50", 224),
    "mobilenet": _pointwise,
    "vit_b": partial(_transformer, "vit_b", 197, ((768, 2304, 12), (768, 768, 12))),
    "bert_base": partial(_transformer, "bert_base", 128, ((768, 768, 48),)),
    "linear": lambda: (Layer("linear", 1024, 1024),),
}
