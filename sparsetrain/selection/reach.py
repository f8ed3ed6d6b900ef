"""Which weights masks reach, and what stays dense.

    Linear, Bilinear, convolutions     weight `[O, I, *kernel]`
    RNN, LSTM, GRU and their cells     weight_ih, weight_hh, weight_hr `[O, I]`
    MultiheadAttention                 in_proj_weight, or q_, k_ and v_proj_weight `[O, I]`
    transposed convolutions            weight `[I, O / groups, *kernel]`
    Hugging Face's Conv1D              weight `[I, O]`

Weights that a parametrization or a hook makes: selection/weight.py.

Embeddings, weights that are tied to one, and the head of a language model stay dense unless they
are asked for, in every method: so it is in the code of Wanda and of SparseGPT, a row of them is a
token, most of which a batch does not hold, and a model suffers most where they are pruned.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from sparsetrain.selection.patterns import Pattern, Transposed, Unstructured
from sparsetrain.selection.weight import Weight, held_in
from sparsetrain.support.nearest import unknown
from sparsetrain.support.wrapped import bare, bare_modules, bare_parameters

Choice = str | type[nn.Module] | nn.Module | Callable[[str, nn.Module], bool]
Exclude = Collection[Choice] | Choice

Masks = Mapping[str, Tensor]

OUTPUTS_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Bilinear)
INPUTS_FIRST = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
HEADS = ("lm_head", "embed_out")
EMBEDDING = "an embedding"
WILD = frozenset("*?[")
CONSIDERABLE = 0.1  # share of the weights that stays dense, above which it is said


@dataclass(frozen=True)
class Reach:
    """What masks can prune in a model.

    Attributes:
        weights: bare name of a parameter -> the weight; in the model's order, tied ones once.
        dense: bare name -> why it stays as it is; weights alone, without those that were excluded.
        entries: name -> entries, of all of these.
    """

    weights: dict[str, Weight]
    dense: dict[str, str]
    entries: dict[str, int]

    @property
    def share(self) -> float:
        """Of the entries that were not excluded, in 0-1, how many masks reach."""
        return sum(self.entries[n] for n in self.weights) / max(1, sum(self.entries.values()))

    def patterns(self, pattern: Pattern) -> dict[str, Pattern]:
        """Weight -> the pattern as it lies in this weight."""
        if isinstance(pattern, Unstructured | Transposed):
            return dict.fromkeys(self.weights, pattern)
        groups = {n: w.inputs_first for n, w in self.weights.items()}
        return {n: Transposed(pattern, g) if g else pattern for n, g in groups.items()}

    def alive(self, masks: Masks, within: Masks | None = None) -> dict[str, Tensor]:
        """The masks as weight_norm can bear them: `Weight.alive`."""
        inside = within or {}
        return {n: self.weights[n].alive(mask, inside.get(n)) for n, mask in masks.items()}

    def values(self) -> dict[str, Tensor]:
        """The weights as their layers use them, which is what a magnitude means."""
        return {n: w.value() for n, w in self.weights.items()}

    def warn(self, who: str) -> None:
        """Name what stays dense, where it is much; to be called by what the user calls."""
        if self.share < 1 - CONSIDERABLE:
            warnings.warn(
                f"{who}: masks reach {self.share:.0%} of the weights; what stays dense:"
                f" {self.said()}; include=... masks what is left out by default, and exclude=..."
                " leaves it without this warning",
                stacklevel=3,
            )

    def said(self, most: int = 3) -> str:
        """ "embed.weight (31%, an embedding), ..., the largest first."""
        whole = sum(self.entries.values())
        names = sorted(self.dense, key=lambda n: -self.entries[n])
        each = [f"{n} ({self.entries[n] / whole:.0%}, {self.dense[n]})" for n in names[:most]]
        more = [f"{len(names) - most} more"] if len(names) > most else []
        return ", ".join([*each, *more])


def reach(
    model: nn.Module,
    exclude: Exclude = (),
    include: Exclude = (),
    unfit: Callable[[Weight], str] = lambda weight: "",
) -> Reach:
    """Find the weights that masks prune.

    Args:
        exclude: what stays dense: names of modules or parameters, patterns of names
            ("blocks.*.attn"), modules, types of modules, functions (name, module) -> bool, or one
            of these.
        include: what is masked besides, said alike: embeddings, a head, or any other parameter of
            two dimensions or more, as `[O, I, ...]`. `exclude` has the last word.
        unfit: why a method cannot mask a weight, or "".

    Raises:
        ValueError: `exclude` or `include` names nothing in the model, or a weight has no shape yet.
    """
    candidates, why = _candidates(model), _left_by_default(model)
    out = _chosen(model, exclude, "exclude", candidates)
    asked = _chosen(model, include, "include", candidates)
    weights, dense, entries = {}, {}, {}
    for name, parameter in bare_parameters(model).items():
        key = id(parameter)
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"{name} has no shape yet; call the model once before")
        weight = candidates.get(key)
        if weight is None and key in asked and parameter.dim() > 1:
            weight = Weight(nn.Module(), name, parameter)
        if key in out or (weight is None and not _is_weight(parameter)):
            continue
        entries[name] = parameter.numel()
        reason = "" if key in asked else why.get(key, "")
        if weight is None or reason or (reason := unfit(weight)):
            dense[name] = reason or "of no layer that masks know"
        else:
            weights[name] = weight
    return Reach(weights, dense, entries)


def _candidates(model: nn.Module) -> dict[int, Weight]:
    """Parameter's id -> weight; of one that several layers share, no embedding's if possible."""
    found: dict[int, Weight] = {}
    for layer in model.modules():
        for attribute, groups in _attributes(layer):
            parameter = held_in(layer, attribute)
            known = found.get(id(parameter))
            if parameter is not None and (known is None or isinstance(known.layer, EMBEDDINGS)):
                found[id(parameter)] = Weight(layer, attribute, parameter, groups)
    return found


def _attributes(layer: nn.Module) -> Iterator[tuple[str, int]]:
    """Weights of a layer: attribute, and groups where inputs come first."""
    if isinstance(layer, OUTPUTS_FIRST):
        yield "weight", 0
    elif isinstance(layer, INPUTS_FIRST):
        yield "weight", layer.groups
    elif isinstance(layer, EMBEDDINGS) or is_transformers_conv1d(layer):
        yield "weight", 1
    elif isinstance(layer, nn.RNNBase):
        yield from ((n, 0) for n in layer._flat_weights_names if n.startswith("weight"))
    elif isinstance(layer, nn.RNNCellBase):
        yield from (("weight_ih", 0), ("weight_hh", 0))
    elif isinstance(layer, nn.MultiheadAttention):
        yield from ((n, 0) for n in PROJECTIONS if getattr(layer, n, None) is not None)


def is_transformers_conv1d(layer: nn.Module) -> bool:
    """Hugging Face's, a linear layer whose weight lies the other way; no import for its sake."""
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")
        for kind in type(layer).__mro__
    )


def _left_by_default(model: nn.Module) -> dict[int, str]:
    """Parameter's id -> why it is masked on request alone."""
    why: dict[int, str] = {}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, EMBEDDINGS)}
    for name, module in bare_modules(model).items():
        weight = module._parameters.get("weight")
        if isinstance(module, EMBEDDINGS):
            why.setdefault(id(weight), EMBEDDING)
        elif id(weight) in embeddings:
            why[id(weight)] = "tied to an embedding"
        elif name.rpartition(".")[2] in HEADS:
            why[id(weight)] = "a language model's head"
        head = _head_of(module)
        if head is not None and id(head) not in embeddings:
            why[id(head)] = "a language model's head"
    return why


def heads(model: nn.Module) -> list[str]:
    """Bare names of the weights that stay dense as a language model's head, or tied to one."""
    why = _left_by_default(model)
    named = bare_parameters(model, remove_duplicate=False).items()
    return [n for n, p in named if why.get(id(p), EMBEDDING) != EMBEDDING]


def _head_of(module: nn.Module) -> nn.Parameter | None:
    """The weight of what a model of Hugging Face calls its output embeddings."""
    ask = getattr(module, "get_output_embeddings", None)
    if not callable(ask):
        return None
    try:
        return getattr(ask(), "weight", None)
    except (AttributeError, NotImplementedError):  # not every model has an answer
        return None


def _is_weight(parameter: Tensor) -> bool:
    """A matrix, or more: no bias, no scale."""
    return sum(size > 1 for size in parameter.shape) > 1


def _chosen(
    model: nn.Module, chosen: Exclude, what: str, candidates: dict[int, Weight]
) -> set[int]:
    """Ids of the parameters that a user has chosen."""
    chosen = listed(chosen)
    modules = bare_modules(model)
    every = bare_parameters(model, remove_duplicate=False)
    inside: list[str] = []
    for each in chosen:
        if isinstance(each, type):
            inside += [n for n, m in modules.items() if isinstance(m, each)]
        elif isinstance(each, nn.Module):
            inside += [n for n, m in modules.items() if m is each]
        elif isinstance(each, str):
            inside += _named(bare(model, each), [*modules, *every], what)
    functions = [f for f in chosen if callable(f) and not isinstance(f, type | nn.Module)]
    layers = {id(w.layer) for w in candidates.values()}
    own = {
        id(p)
        for n, m in modules.items()
        if functions and id(m) in layers and any(f(n, m) for f in functions)
        for p in m.parameters(recurse=False)
    }
    beneath = tuple(f"{n}." for n in inside if n)
    if "" in inside:
        return {id(p) for p in every.values()}
    return own | {id(p) for n, p in every.items() if f"{n}.".startswith(beneath)}


def listed(chosen: Exclude) -> list[Choice]:
    """One choice or several, as several."""
    return [chosen] if isinstance(chosen, str | type) or callable(chosen) else list(chosen)


def _named(name: str, known: list[str], what: str) -> list[str]:
    """Names that a name or a pattern of names means."""
    if name in known:
        return [name]
    found = [n for n in known if fnmatchcase(n, name)] if WILD & set(name) else []
    if not found:
        raise unknown(f"layer to {what}", name, known, listed=False)
    return found
