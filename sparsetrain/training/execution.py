"""When a training runs packed: in the steps between those at which its method looks at weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.methods import Method
from sparsetrain.swap import Packing, densify, pack_, sparse_layers, sparsify

AUTO_STEPS = 20  # that must run packed, to pay for packing
AUTO_SPARSITY = 0.5  # below it no layer gains
MOVED = 0.8  # a share of the live weights by which the forms are chosen anew


@dataclass
class Execution:
    """How the layers that a method prunes run.

    Attributes:
        mode: "dense"; "sparse", packed wherever that is possible; or "auto", where it pays.
        sample: makes a batch of input, to measure with.
        steps: of the whole training.
        forms: layer -> form, as last chosen.
        live: weights that were left then.
    """

    mode: str
    model: nn.Module
    optimizer: Optimizer
    method: Method
    sample: Callable[[], Tensor]
    steps: int
    forms: dict[str, str] = field(default_factory=dict)
    live: int = 0
    packed: bool = False
    _refused: float | None = None  # the change up to which the layers stay dense
    _sparse: dict[nn.Module, Any] = field(default_factory=dict)

    def prepare(self, step: int) -> None:
        """Before the forward pass of a step, counted from 1: whole weights or live ones alone."""
        change = self.method.next_change(step - 1)
        resting = min(change, self.steps + 1) - step
        if resting < 1:
            self.densify()
        elif not self.packed and change != self._refused:
            if resting >= (AUTO_STEPS if self.mode == "auto" else 1):
                self._pack()
            self._refused = None if self.packed else change

    def densify(self) -> None:
        """Whole weights, until the next step is prepared."""
        if self.packed:
            densify(self.model, self.optimizer)
            self.packed = False

    def close(self) -> None:
        self.densify()

    def state_dict(self) -> dict[str, Any]:
        return {"mode": self.mode, "forms": dict(self.forms), "live": self.live}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the layers in the forms that they had, where that is what is asked for."""
        if state["mode"] == self.mode:
            self.forms, self.live = dict(state["forms"]), state["live"]

    def _pack(self) -> None:
        masks = self.method.masks
        live = sum(int(mask.sum()) for mask in masks.values())
        most = sum(mask.numel() for mask in masks.values())
        if self.mode == "dense" or live == most:
            return
        if self.mode == "auto" and (live > AUTO_SPARSITY * most or self._lacks_kernels):
            return
        anew = not MOVED * self.live <= live <= self.live / MOVED
        if not anew and self._sparse:
            self._pack_again()
        elif anew or any(form != "dense" for form in self.forms.values()):
            self._choose(live, anew)
        self.packed = bool(self._sparse)

    def _choose(self, live: int, anew: bool) -> None:
        force = ("sparse" if self.mode == "sparse" else None) if anew else self.forms
        report = sparsify(
            self.model,
            self.method.masks,
            self.sample(),
            optimizer=self.optimizer,
            training=True,
            force=force,
        )
        self.forms, self._sparse = report.forms, sparse_layers(self.model)
        self.live = live if anew else self.live

    def _pack_again(self) -> None:
        """The same layers with the masks and weights of now."""
        names = {module: name for name, module in self.model.named_modules()}
        masks = self.method.masks
        packings = {
            dense: Packing(masks[f"{names[dense]}.weight"], layer.weight.shape[1])
            for dense, layer in self._sparse.items()
        }
        self._sparse = pack_(self.model, packings, self.optimizer, reuse=self._sparse)

    @property
    def _lacks_kernels(self) -> bool:
        return any(p.device.type != "cpu" for p in self.model.parameters())
