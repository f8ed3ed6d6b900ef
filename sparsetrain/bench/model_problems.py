"""The whole networks that `sparsetrain bench models` times, and what is promised of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparsetrain import models
from sparsetrain.bench import packaged
from sparsetrain.bench.layer_problems import Form, named_forms
from sparsetrain.selection.masks import prunable
from sparsetrain.selection.patterns import parse_pattern
from sparsetrain.selection.select import select
from sparsetrain.support.nearest import unknown

THIN = (0.9, 0.95, 0.98)
TOKENS = 128
FORMS = tuple((pattern, sparsity) for pattern in ("unstructured", "vector:4") for sparsity in THIN)
Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Workload:
    """A network, its input, and whether it infers or trains.

    Attributes:
        image_size: 0 where the network takes no images but tokens.
        promised: form -> times as fast as the fastest dense contender.
    """

    model: str
    image_size: int
    batch: int
    what: str
    promised: dict[Form, float]
    forms: tuple[Form, ...] = FORMS
    width: float = 1.0

    @property
    def name(self) -> str:
        size = f"{self.image_size}x{self.image_size}" if self.image_size else f"{TOKENS} tokens"
        return f"{self.model} {size}, batch {self.batch}, {self.what}"

    @property
    def missing(self) -> str | None:
        """The package that it needs and that is not installed, or None."""
        return packaged.missing(self.model)

    @property
    def swapped(self) -> bool:
        """Whether what `sparsify` makes of it is timed: of our own networks."""
        return self.model not in packaged.PACKAGES

    def network(self) -> nn.Module:
        """The same weights each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = self._built() if self.swapped else packaged.build(self.model)
            _spread_(built)
        return built.train(self.what == "training")

    def x(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        if not self.image_size:
            shape = (self.batch, TOKENS)
            return torch.randint(packaged.VOCABULARY, shape, generator=generator)
        shape = (self.batch, 3, self.image_size, self.image_size)
        return torch.randn(shape, generator=generator)

    def _built(self) -> nn.Module:
        classes = 10 if self.image_size <= 64 else 1000
        return models.build(
            self.model, classes=classes, image_size=self.image_size, width=self.width
        )


def masks_of(model: nn.Module, form: Form) -> Masks:
    """The greatest weights of each layer.

    The first, which sees three channels, depthwise convolutions and embeddings stay dense.
    """
    weights = prunable(model, exclude=_stays_dense)
    pattern, sparsity = form
    scores = {name: weight.detach().abs() for name, weight in weights.items()}
    return select(scores, sparsity, pattern=parse_pattern(pattern), scope="layer")


@torch.no_grad()
def apply_(masks: Masks, model: nn.Module) -> nn.Module:
    """Zeros where masks are false."""
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].mul_(mask)
    return model


def chosen(
    model: Sequence[str] = (),
    batch: Sequence[int] = (),
    what: Sequence[str] = (),
    pattern: Sequence[str] = (),
    sparsity: Sequence[float] = (),
) -> list[Workload]:
    """What is promised, or of it only what is named.

    Raises:
        ValueError: a model or pass is unknown or not installed, or nothing is left.
    """
    named = {w.model for w in WORKLOADS}
    for name in model:
        if name not in named:
            raise unknown("model here", name, sorted(named))
        if package := packaged.missing(name):
            raise ValueError(f"bench models: {name} needs {package}: pip install {package}")

    found = [
        replace(workload, forms=forms)
        for workload in WORKLOADS
        if (forms := named_forms(workload.forms, pattern, sparsity))
        if not model or workload.model in model
        if not batch or workload.batch in batch
        if not what or workload.what in what
    ]
    if not found:
        raise ValueError("bench models: nothing is what was named")
    return found


Times = tuple[float, float, float]


def _promise(pattern: str, *times: float) -> dict[Form, float]:
    return {(pattern, s): each for s, each in zip(THIN, times, strict=True)}


def _promises(unstructured: Times, vector: Times) -> dict[Form, float]:
    return {**_promise("unstructured", *unstructured), **_promise("vector:4", *vector)}


WORKLOADS = (
    Workload("vgg19", 32, 64, "inference", _promises((4, 6, 9), (6, 9, 13))),
    Workload("vgg19", 32, 64, "training", _promise("unstructured", 2.2, 3.3, 4.5)),
    Workload("resnet50", 224, 8, "inference", _promises((2.5, 3.7, 5), (4, 5.5, 7))),
    Workload("resnet50", 224, 1, "inference", _promises((2, 3, 4), (2.7, 3.7, 4.5))),
    Workload("mobilenet_v2", 224, 8, "inference", _promise("unstructured", 1.6, 2, 2.5)),
    Workload("vit_small_patch16_224", 224, 8, "inference", _promises((2.2, 3, 4), (3, 4, 5))),
    Workload("bert_base", 0, 8, "inference", _promises((2.2, 3, 4), (3, 4, 5))),
)


def _stays_dense(_: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and (module.in_channels == 3 or module.groups > 1)


def _spread_(model: nn.Module) -> None:
    """Norms of no special value, as after training; a head that is made of zeros gets weights."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            running: Callable[[str], Tensor] = module.get_buffer
            running("running_mean").normal_(0, 0.1)
            running("running_var").uniform_(0.5, 1.5)
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
