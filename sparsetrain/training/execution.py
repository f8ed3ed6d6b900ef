"""When a training runs packed: in the steps between those at which its method looks at weights.

Whether, and in which forms, is decided once in each interval between two such steps, at its start.
The decision is part of a checkpoint, and writing one leaves the network as it was: a resumed run
goes on as the same run would have.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.methods import Method
from sparsetrain.nn.packed import widest
from sparsetrain.swap import Packing, densify, pack_, sparse_layers, sparsify

AUTO_STEPS = 20  # that must run packed, to pay for packing
AUTO_SPARSITY = 0.5  # below it no layer gains
MOVED = 0.8  # a share of the live weights by which the forms are chosen anew
DECIDED = ("forms", "blocked", "live", "until", "wanted")


@dataclass
class Execution:
    """How the layers that a method prunes run.

    Attributes:
        mode: "dense"; "sparse", packed wherever that is possible; or "auto", where it pays.
        sample: makes a batch of input, to measure with.
        steps: of the whole training.
        forms: layer -> form, as last chosen.
        blocked: layers whose output then stays in the kernels' layout.
        live: weights that were left then.
        until: the step at whose start the present decision ends.
        wanted: packed up to there.
        packed: at this moment.
    """

    mode: str
    model: nn.Module
    optimizer: Optimizer
    method: Method
    sample: Callable[[], Tensor]
    steps: int
    forms: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    live: int = 0
    until: int = 0
    wanted: bool = False
    packed: bool = False
    _sparse: dict[nn.Module, Any] = field(default_factory=dict)

    def prepare(self, step: int) -> bool:
        """Before the forward pass of a step, counted from 1: whole weights or live ones alone.

        Returns:
            Whether measured times have decided: measured again they may decide otherwise.
        """
        until = int(min(self.method.next_change(step - 1), self.steps + 1))
        measured = False
        if until != self.until or until == step:
            self.densify()
            self.until, self.wanted = until, False
            if until - step >= (AUTO_STEPS if self.mode == "auto" else 1):
                measured = self._decide()
        self.enter()
        return measured

    def enter(self) -> None:
        """The form that was decided on."""
        if not self.wanted:
            self.densify()
        elif not self.packed:
            self._pack()

    def densify(self) -> None:
        """Whole weights, until the form that was decided on is entered again."""
        if self.packed:
            densify(self.model, self.optimizer)
            self.packed = False

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Whole weights for a while."""
        self.densify()
        yield
        self.enter()

    def close(self) -> None:
        self.densify()

    def state_dict(self) -> dict[str, Any]:
        return {"mode": self.mode, **{name: getattr(self, name) for name in DECIDED}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as was decided, where the same mode is asked for and there are kernels."""
        if state["mode"] == self.mode and not self._lacks_kernels:
            for name in DECIDED:
                setattr(self, name, state[name])

    def _decide(self) -> bool:
        """Set `wanted`, and the forms where they are not known or too old; whether by times."""
        masks = self.method.masks
        live = sum(int(mask.sum()) for mask in masks.values())
        most = sum(mask.numel() for mask in masks.values())
        if self.mode == "dense" or live == most:
            return False
        if self.mode == "auto" and (live > AUTO_SPARSITY * most or self._lacks_kernels):
            return False
        anew = not MOVED * self.live <= live <= self.live / MOVED
        if anew:
            self._choose()
            self.live = live
        self.wanted = any(form != "dense" for form in self.forms.values())
        return anew and self.mode == "auto"

    def _choose(self) -> None:
        report = sparsify(
            self.model,
            self.method.masks,
            self.sample(),
            optimizer=self.optimizer,
            training=True,
            force="sparse" if self.mode == "sparse" else None,
        )
        self.forms = report.forms
        self.blocked = [row.layer for row in report.rows if row.blocked]
        self._sparse = sparse_layers(self.model)
        self.packed = bool(self._sparse)

    def _pack(self) -> None:
        """The layers in their forms, with the masks and weights of now."""
        masks, packings = self.method.masks, {}
        sparse = {n: form for n, form in self.forms.items() if form != "dense"}
        for name, form in sparse.items():
            mask = masks[f"{name}.weight"]
            v = widest(mask) if form == "vector" else 1
            packings[self.model.get_submodule(name)] = Packing(mask, v)
        self._sparse = pack_(self.model, packings, self.optimizer, reuse=self._sparse)
        for name, layer in zip(sparse, self._sparse.values(), strict=True):
            layer.output = "blocked" if name in self.blocked else "dense"
        self.packed = True

    @property
    def _lacks_kernels(self) -> bool:
        return any(p.device.type != "cpu" for p in self.model.parameters())
