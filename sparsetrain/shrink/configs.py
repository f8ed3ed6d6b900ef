"""Let the configs that make a model say its widths, while a removal is carried out."""

from collections.abc import Callable, Sequence

from torch import nn

from sparsetrain.shrink.apply import Cut
from sparsetrain.shrink.changes import removal_of
from sparsetrain.shrink.pretrained import SAVE, Described, Refusal, made_by_configs
from sparsetrain.support.wrapped import unwrapped


def described(model: nn.Module) -> list[Described]:
    """The parts of a whole model that configs make, as these say them."""
    made = made_by_configs(unwrapped(model)[0])
    return [Described.of(module, name) for name, module in made.items()]


def say(
    cut: Cut, model: nn.Module, parts: Sequence[Described], proved: bool
) -> Callable[[], None] | None:
    """Let the configs say what is left, or the parts refuse to be saved with them.

    Args:
        proved: what the model computes is compared afterwards.

    Returns:
        What takes the configs' numbers back and refuses; None where no number has changed.
    """
    since = cut.held
    for part in parts:
        every = part.model.modules()
        # A buffer that the config makes would be made whole.
        buffers = any(name in m._buffers for m in every for name in removal_of(m).names)
        numbers = None if buffers else part.now(proved)
        if numbers is None:
            cut.put(part.model, SAVE, Refusal(type(part.model).__name__))
        else:
            cut.put(part.model, SAVE)
            cut.hold(unwrapped(model)[0], numbers)

    def take_back() -> None:
        cut.release(since)
        for part in parts:
            cut.put(part.model, SAVE, Refusal(type(part.model).__name__))

    return take_back if cut.held > since else None
