"""Models that a config makes, as those of Hugging Face: after a removal their config says it, too.

A config is the model's `config`, an object of numbers, lists of them and further such objects, and
`type(model)(config)` makes the model anew. New numbers are guessed from the dimensions and
attributes that changed, and hold if the model made from them, on the meta device, has the very
shapes and numbers of the shrunk one: then `save_pretrained` and `from_pretrained` work. Where none
hold, as where layers have come to differ, `save_pretrained` is refused with what works instead.
"""

import copy
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparsetrain.shrink.needs import POSITIONS
from sparsetrain.shrink.needs import WIDTH as USUAL
from sparsetrain.shrink.terms import Held

CONFIG, SAVE = "config", "save_pretrained"
WIDTH = re.compile(f"{USUAL.pattern}|embd|ffn|filter|kv|state|rank")
NO_WIDTH = re.compile(f"{POSITIONS.pattern}|token|layers|depth|_id|label")
FILLS = {torch.Tensor.uniform_, torch.Tensor.normal_}
IS_META, DATA = torch.Tensor.is_meta.__get__, torch.Tensor.data.__get__  # type: ignore[attr-defined]
UNFILLED = "_sparsetrain_unfilled"  # says so of a parameter's data
Misfit = tuple[float, float]
NONE = float("inf")
BUILDS = 32  # models that are made to find the numbers, at most
Path = tuple[str | int, ...]
PLAIN = (bool, int, float)


@dataclass(frozen=True)
class Refusal:
    """Stands for `save_pretrained` where the file would be of another network."""

    model: str

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            f"save_pretrained: the config of {self.model} cannot say the widths that its layers"
            " have now; sparsetrain.checkpoint.save_model(path, model) keeps them, and"
            f" load_model(path, model) gives them to a fresh {self.model}"
        )


@dataclass(frozen=True)
class Described:
    """A model before a removal, and what its config says of it.

    Attributes:
        shapes: of its tensors.
        name: of it in the whole model, "" or "encoder".
        said: the whole numbers of its config.
        numbers: (module, attribute) -> value, where a model made from the config has the same.
    """

    model: nn.Module
    name: str
    shapes: Mapping[str, tuple[int, ...]]
    said: Mapping[Path, int] = field(default_factory=dict)
    numbers: Mapping[tuple[str, str], Any] = field(default_factory=dict)

    @staticmethod
    def of(model: nn.Module, name: str) -> "Described":
        """A module that `made_by_configs` names."""
        config = getattr(model, CONFIG)
        twin = _made(model, config)
        if twin is None or _shapes(twin) != _shapes(model):
            return Described(model, name, {})
        own, theirs = _numbers(model), _numbers(twin)
        same = {key: own[key] for key in own.keys() & theirs.keys() if own[key] == theirs[key]}
        return Described(model, name, _shapes(model), dict(_leaves(config)), same)

    def now(self, proved: bool) -> dict[Held, Any] | None:
        """Numbers that change, of the config and of modules; None where the config cannot say it.

        Args:
            proved: what the model computes is compared afterwards, so that its modules may take on
                numbers that the config gives them, and that no operation has shown.
        """
        if not self.shapes:
            return None
        numbers, (shapes, others) = self._search()
        if shapes or (others and not proved) or not self._same_buffers(numbers):
            return None
        now = dict(_leaves(getattr(self.model, CONFIG)))
        found = {Held(self.name, (CONFIG, *p)): n for p, n in numbers.items() if n != now[p]}
        return found | self._others(_made(self.model, getattr(self.model, CONFIG), numbers))

    def _search(self) -> tuple[dict[Path, int], Misfit]:
        """The numbers that fit best, found one after the other."""
        guesses = self._guesses()
        best = {path: likely[0] for path, likely in guesses.items()}
        misfit, builds = self._misfit(best), 1
        for path, likely in [*guesses.items()] * 2:
            for number in likely:
                if misfit > (0, 0) and number != best[path] and builds < BUILDS:
                    tried = best | {path: number}
                    builds += 1
                    best, misfit = min(
                        ((best, misfit), (tried, self._misfit(tried))), key=lambda each: each[1]
                    )
        return best, misfit

    def _misfit(self, numbers: Mapping[Path, int]) -> Misfit:
        """How many shapes, and how many numbers of modules, these numbers make otherwise."""
        twin = _made(self.model, getattr(self.model, CONFIG), numbers)
        if twin is None:
            return (NONE, NONE)
        ours, theirs = _shapes(self.model), _shapes(twin)
        wrong = sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys())
        return wrong, len(self._others(twin))

    def _others(self, twin: nn.Module | None) -> dict[Held, Any]:
        """What modules of a model that was made anew hold otherwise."""
        own, theirs = _numbers(self.model), {} if twin is None else _numbers(twin)
        return {
            Held(f"{self.name}.{module}".strip("."), (name,)): theirs[module, name]
            for module, name in self.numbers.keys() & own.keys() & theirs.keys()
            if own[module, name] != theirs[module, name]
        }

    def _same_buffers(self, numbers: Mapping[Path, int]) -> bool:
        """Whether the buffers that no file holds would be made with the values that they have."""
        own = _lasting(self.model)
        if not own:
            return True
        twin = _made(self.model, getattr(self.model, CONFIG), numbers, numbered=True)
        theirs = {} if twin is None else _lasting(twin)
        return own.keys() == theirs.keys() and all(
            torch.equal(own[name].cpu(), theirs[name]) for name in own
        )

    def _guesses(self) -> dict[Path, list[int]]:
        """What each number of the config may have become, the likeliest first."""
        became: dict[int, Counter[int]] = defaultdict(Counter)
        for name, new in _shapes(self.model).items():
            for before, after in zip(self.shapes[name], new, strict=True):
                became[before][after] += 1
        named: dict[str, Counter[int]] = defaultdict(Counter)
        now = _numbers(self.model)
        for (module, name), before in self.numbers.items():
            after = now.get((module, name))
            if type(before) is int and type(after) is int:
                named[name][after] += 1
                became[before][after] += 1
        smaller = [(n, m) for n, new in became.items() for m in new if 0 < m < n]
        guesses, says = {}, dict(_leaves(getattr(self.model, CONFIG)))
        for path, value in self.said.items():
            same_name = named.get(str(path[-1]), Counter())
            read = [says[path]] if says.get(path, value) != value else []  # by the model's code
            order = [*read, *same_name, *(n for n, _ in became[value].most_common())]
            if "head" in str(path[-1]) or "head" in str(path[:1]):
                order += [value * m // n for n, m in smaller if value * m % n == 0]
            likely = list(dict.fromkeys(n for n in (*order, value) if 0 < n <= value))
            if path in says and any(n != value for n in likely):
                guesses[path] = likely
        return guesses


def made_by_configs(model: nn.Module) -> dict[str, nn.Module]:
    """The outermost modules in a model that a config makes and that can be saved with it."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(f"{name}.".startswith(f"{outer}." if outer else "") for outer in found)
        said = hasattr(vars(module).get(CONFIG), "__dict__")
        if said and not inside and callable(getattr(module, SAVE, None)):
            found[name] = module
    return found


def agrees(model: nn.Module) -> bool:
    """Whether the config makes tensors of the shapes that the model has."""
    twin = _made(model, getattr(model, CONFIG))
    return twin is not None and _shapes(twin) == _shapes(model)


def refuse(model: nn.Module) -> None:
    """Let the model refuse to be saved with its config."""
    vars(model)[SAVE] = Refusal(type(model).__name__)


def changed(config: Any, numbers: Mapping[Path, int]) -> Any:
    """A copy with other numbers."""
    new = copy.deepcopy(config)
    for (*owners, last), number in numbers.items():
        held = new
        for part in owners:
            held = held[int(part)] if isinstance(held, list) else getattr(held, str(part))
        if isinstance(held, list):
            held[int(last)] = number
        else:
            setattr(held, str(last), number)
    return new


def with_own_config(model: nn.Module) -> dict[nn.Module, dict[str, Any]]:
    """Module -> attribute -> a copy of the config that it holds, which no other model does."""
    pairs: dict[int, Any] = {}
    for module in made_by_configs(model).values():
        old = getattr(module, CONFIG)
        pairs |= dict(_objects(old, copy.deepcopy(old))) if id(old) not in pairs else {}
    return {
        module: found
        for module in model.modules()
        if (found := {n: pairs[id(v)] for n, v in vars(module).items() if id(v) in pairs})
    }


def _made(
    model: nn.Module, config: Any, numbers: Mapping[Path, int] = {}, numbered: bool = False
) -> nn.Module | None:
    """A model of the same class; None where there is none.

    Args:
        numbered: with numbers in its buffers; its parameters have none, and no memory either.
    """
    devices = [t.device for t in model.parameters() if t.device.type == "cuda"]
    where = _Unfilled() if numbered else torch.device("meta")
    try:
        with torch.random.fork_rng(devices), where:
            return type(model)(changed(config, numbers))
    except Exception:  # a class may raise what it likes
        return None


class _Unfilled(TorchFunctionMode):
    """Tensors that are to be filled by chance stay as they came, in memory that is not touched.

    Parameters say that they are meta tensors, so that `nn.init.trunc_normal_` leaves them alone:
    it draws until all lie between its bounds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FILLS:
            return args[0]
        result = func(*args, **(kwargs or {}))
        if func == IS_META:
            return result or isinstance(args[0], nn.Parameter) or hasattr(args[0], UNFILLED)
        if func == DATA:
            setattr(result, UNFILLED, True)
        return result


def _lasting(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that are in no state_dict."""
    return {
        f"{name}.{key}": buffer
        for name, module in model.named_modules()
        for key, buffer in module._buffers.items()
        if key in module._non_persistent_buffers_set and buffer is not None
    }


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    state = model.state_dict(keep_vars=True)
    return {n: tuple(t.shape) for n, t in state.items() if isinstance(t, Tensor)}


def _numbers(model: nn.Module) -> dict[tuple[str, str], Any]:
    """What modules hold as numbers, or as lists and tuples of them."""
    found = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            several = isinstance(value, list | tuple) and all(type(v) in PLAIN for v in value)
            if attribute != "training" and (type(value) in PLAIN or several):
                found[name, attribute] = value
    return found


def _leaves(config: Any, path: Path = (), said: str = "") -> Iterator[tuple[Path, int]]:
    """The whole numbers of a config, further objects and lists included."""
    held = enumerate(config) if isinstance(config, list) else vars(config).items()
    for name, value in held:
        said = name if isinstance(name, str) else said
        if type(value) is int and value > 1 and WIDTH.search(said) and not NO_WIDTH.search(said):
            yield (*path, name), value
        elif (isinstance(value, list) or _is_object(value)) and len(path) < 4:
            yield from _leaves(value, (*path, name), said)


def _objects(old: Any, new: Any) -> Iterator[tuple[int, Any]]:
    """(identity, counterpart) of a config and the objects in it."""
    yield id(old), new
    for name, value in vars(old).items():
        if _is_object(value):
            yield from _objects(value, getattr(new, name))


def _is_object(value: Any) -> bool:
    return hasattr(value, "__dict__") and hasattr(value, "to_dict")
