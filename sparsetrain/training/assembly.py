"""What a run's settings make: its network, its optimizer, its pruning method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from sparsetrain import methods, models, scores
from sparsetrain.data import Images
from sparsetrain.methods import recalibrate
from sparsetrain.optim import SGD, AdamW
from sparsetrain.selection.patterns import parse_pattern
from sparsetrain.support.sources import find_network
from sparsetrain.training.catalog import FOLLOWS, METHODS, field_names, parse_options
from sparsetrain.training.config import Config


@dataclass(frozen=True)
class Setting:
    """What a method can be made from."""

    config: Config
    data: Images

    @property
    def epoch_steps(self) -> int:
        return self.data.train.steps(self.config.batch_size, train=True)

    @property
    def total_steps(self) -> int:
        """Steps of the learning rate's schedule; a method may train longer: `Method.lengths`."""
        return self.config.epochs * self.epoch_steps

    def batch(self, number: int = 0) -> tuple[Tensor, Tensor]:
        """One batch of training images, not varied, drawn by the run's seed and a number."""
        return self.data.train.sample(
            min(self.config.batch_size, len(self.data.train)),
            seed=self.config.seed + 1000 * number,
            device=self.config.torch_device,
            channels_last=self.config.channels_last,
        )

    def recalibrate(self, model: nn.Module) -> None:
        """Statistics of batch norms for a trained network that was pruned at once."""
        recalibrate(model, (self.batch(number)[0] for number in range(RECALIBRATING)))

    def batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        return [self.batch(number) for number in range(count)]


Arguments = Callable[[Setting], Mapping[str, Any]]

RECALIBRATING = 8  # batches; their means hardly move after that

GIVEN: dict[str, Callable[[Setting], Any]] = {  # None: the method's own default
    "sparsity": lambda s: s.config.sparsity,
    "flops": lambda s: s.config.flops,
    "pattern": lambda s: None if s.config.pattern is None else parse_pattern(s.config.pattern),
    "allocation": lambda s: s.config.allocation,
    "count": lambda s: s.config.count,
    "floor": lambda s: s.config.floor,
    "exclude": lambda s: s.config.excluded,
    "include": lambda s: s.config.included,
    "protect": lambda s: s.config.excluded,
    "total_steps": lambda s: s.total_steps,
    "epoch_steps": lambda s: s.epoch_steps,
    "loss_fn": lambda s: cross_entropy,
    "batch": lambda s: s.batch(),
    "sample": lambda s: s.batch()[0],
    "seed": lambda s: s.config.seed,
}
UPDATES = 50  # of a mask in a training, as FGGP's has at its batch size and interval


def prunes_at_once(method: methods.Method, step: int) -> bool:
    """Whether a trained network has lost its weights at once in this step; 0: before training."""
    if isinstance(method, methods.Magnitude):
        return method.at == step
    return step == 0 and isinstance(method, methods.Wanda | methods.SparseGPT)


def _drive(setting: Setting) -> Mapping[str, Any]:
    config, steps = setting.config, setting.epoch_steps
    return {
        "dense_steps": round(config.dense_epochs * steps),
        "rounds": config.rounds,
        "interval": max(1, round(config.prune_epochs * steps / config.rounds)),
    }


def _drive_ends(method: methods.DRIVE, setting: Setting) -> None:
    if method.last_round > setting.total_steps:
        raise ValueError(
            f"drive ends its last round in step {method.last_round}, training in step"
            f" {setting.total_steps}; fewer dense_epochs, prune_epochs or more epochs"
        )


def _updates(setting: Setting) -> Mapping[str, Any]:
    return {"interval": max(1, setting.total_steps // UPDATES)}


def _batches(count: int) -> Callable[[Setting], Mapping[str, Any]]:
    return lambda setting: {"batches": setting.batches(count)}


def _inputs(setting: Setting) -> Mapping[str, Any]:
    return {"batches": [setting.batch()[0]]}


def _stages(setting: Setting) -> Mapping[str, Any]:
    """Densities by epoch; widths that run well."""
    return {"interval": setting.epoch_steps, "round_to": 8}


def _levels(setting: Setting) -> Mapping[str, Any]:
    return {"level_steps": setting.total_steps}


def _imp_ends(method: methods.IMP, setting: Setting) -> None:
    if method.rewind_step % setting.epoch_steps:
        raise ValueError(
            f"imp rewinds to a whole epoch of {setting.epoch_steps} steps, got"
            f" rewind_step={method.rewind_step}"
        )


def _channels(score: Callable[[Setting], Any]) -> Arguments:
    """Channels that go by a score, spread as DRIVE's rounds are."""

    def arguments(setting: Setting) -> Mapping[str, Any]:
        drive = _drive(setting)
        own = {"score": score(setting), "at": drive["dense_steps"]}
        return own | {"rounds": drive["rounds"], "interval": drive["interval"]}

    return arguments


ARGUMENTS: dict[str, Arguments] = {  # what does not follow from GIVEN, before the user's own
    "drive": _drive,
    "fggp": _updates,
    "activation-density": _stages,
    "snip": _batches(1),
    "grasp": _batches(2),
    "iter-snip": _batches(10),
    "force": _batches(10),
    "prospr": _batches(3),
    "gmp": _updates,
    "set": _updates,
    "rigl": _updates,
    "granet": _updates,
    "srigl": _updates,
    "gse": _updates,
    "imp": _levels,
    "wanda": _inputs,
    "sparsegpt": _inputs,
    "l1": _channels(lambda setting: scores.FilterNorm(1)),
    "l2": _channels(lambda setting: scores.FilterNorm(2)),
    "fpgm": _channels(lambda setting: scores.FPGM()),
    "group-norm": _channels(lambda setting: scores.GroupNorm(2)),
    "taylor": _channels(lambda setting: scores.Taylor(cross_entropy, setting.batches(1))),
    "random-channels": _channels(lambda setting: scores.Random(setting.config.seed)),
}
CHECKS: dict[str, Callable[[Any, Setting], None]] = {  # that the finished method fits into the run
    "drive": _drive_ends,
    "imp": _imp_ends,
}


def build_method(config: Config, data: Images) -> methods.Method:
    """The pruning method, its shares of an epoch turned into steps.

    Raises:
        ValueError: an option is unknown or of another type, or the method does not fit.
    """
    setting, kind = Setting(config, data), METHODS[config.method]
    given = {name: GIVEN[name](setting) for name in FOLLOWS.intersection(field_names(kind))}
    given = {name: value for name, value in given.items() if value is not None}
    own = parse_options(config.method, config.set)
    arguments = ARGUMENTS[config.method](setting) if config.method in ARGUMENTS else {}
    method = kind(**(given | dict(arguments) | own))
    if config.method in CHECKS:
        CHECKS[config.method](method, setting)
    return method


def build_model(config: Config, data: Images) -> nn.Module:
    """The network that `config.model` names, on the CPU, freshly initialised."""
    if ":" in config.model:
        return find_network(config.model)
    return models.build(
        config.model, classes=len(data.classes), image_size=data.shape[-1], width=config.width
    )


def build_optimizer(config: Config, model: nn.Module) -> Optimizer:
    if config.optimizer == "adamw":
        return AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    return SGD(
        model.parameters(),
        config.lr,
        config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )


def laid_out(config: Config, model: nn.Module) -> Config:
    """The config, in channels_last only where torch computes this model rightly in it.

    oneDNN's AVX2 kernel (seen in torch 2.13) gets the weight gradient of a strided 1x1 convolution
    with fewer than 8 input channels wrong, and writes beyond its memory. A machine with AVX-512 has
    another kernel; the layout is the same on both, so that a run can move from one to the other.
    """
    may_be_wrong = config.channels_last and config.torch_device.type == "cpu"
    if may_be_wrong and any(map(_is_computed_wrongly, model.modules())):
        return replace(config, channels_last=False)
    return config


def _is_computed_wrongly(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and tuple(module.kernel_size) == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < 8
    )
