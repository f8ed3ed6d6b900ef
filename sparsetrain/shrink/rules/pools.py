"""Pooling, resampling, patches, spectra: channels stay, positions change."""

from sparsetrain.shrink.labels import Dims, Labels, Tracer
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.rules.registry import rule, untracked

POOLS = "max_pool{n}d max_pool{n}d_with_indices avg_pool{n}d adaptive_avg_pool{n}d"
POOLS += " _adaptive_avg_pool{n}d adaptive_max_pool{n}d mkldnn_max_pool{n}d"
SAMPLINGS = {
    1: "upsample_linear1d upsample_nearest1d _upsample_nearest_exact1d",
    2: "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa _upsample_nearest_exact2d",
    3: "upsample_trilinear3d upsample_nearest3d _upsample_nearest_exact3d",
}


def pool(spatial: int):
    def follow(t: Tracer, step: Step) -> list[Dims]:
        x = step.values[0]
        dims = list(t.dims[x])
        for d in range(len(dims) - spatial, len(dims)):
            if not _by_itself(step, d - len(dims), spatial):
                t.fix(dims[d], f"{step} pools over it")
                dims[d] = None
        return [list(dims) for _ in step.outputs]

    return follow


def _by_itself(step: Step, dim: int, spatial: int) -> bool:
    """Whether a pool has a kernel of one position along this dimension, counted from the end."""
    name = step.op.overloadpacket.__name__
    if "adaptive" in name or "pool" not in name:
        return False
    kernel, stride, padding = (step.arg(place, "", []) for place in (1, 2, 3))
    wanted = ((kernel, 1), (stride or kernel, 1), (padding or [0], 0))
    return all(sizes[dim if len(sizes) == spatial else 0] == size for sizes, size in wanted)


for _n, _names in SAMPLINGS.items():
    rule(*POOLS.format(n=_n).split(), *_names.split())(pool(_n))


@rule("pixel_shuffle")
def pixel_shuffle(t: Tracer, step: Step) -> Dims:
    """r * r channels that become one go together."""
    x, out = step.values[0], step.outputs[0]
    return [*t.dims[x][:-3], _merged(t, step, t.dims[x][-3], out.shape[-3]), None, None]


def _merged(t: Tracer, step: Step, labels: Labels, channels: int) -> Labels:
    """As many neighbours as become one channel go together."""
    if labels is None:
        return None
    each = labels.reshape(channels, -1)
    for i in range(1, each.shape[1]):
        t.tie(each[:, 0], each[:, i], str(step))
    return each[:, 0]


@rule("pixel_unshuffle")
def pixel_unshuffle(t: Tracer, step: Step) -> Dims:
    x, out = step.values[0], step.outputs[0]
    labels = t.dims[x][-3]
    times = out.shape[-3] // x.shape[-3]
    return [*t.dims[x][:-3], None if labels is None else labels.repeat(times), None, None]


@rule("grid_sampler_2d", "grid_sampler_3d")
def grid_sample(t: Tracer, step: Step) -> Dims:
    x, grid = step.values
    t.fix_all([grid], f"{step} takes positions from it")
    return [*t.dims[x][:2], *[None] * (len(x.shape) - 2)]


@rule("im2col")
def unfold(t: Tracer, step: Step) -> Dims:
    """Each channel becomes one for every place in a patch."""
    x, out = step.values[0], step.outputs[0]
    labels = t.dims[x][-3]
    times = out.shape[-2] // x.shape[-3]
    return [*t.dims[x][:-3], None if labels is None else labels.repeat(times), None]


@rule("col2im")
def fold(t: Tracer, step: Step) -> Dims:
    x, out = step.values[0], step.outputs[0]
    return [*t.dims[x][:-2], _merged(t, step, t.dims[x][-2], out.shape[-3]), None, None]


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(t: Tracer, step: Step) -> Dims:
    dims = list(t.dims[step.values[0]])
    for d in step.arg(1, "dim"):
        t.fix(dims[d], f"{step} transforms along it")
        dims[d] = None
    return dims


@rule("max_unpool2d", "max_unpool3d")
def unpool(t: Tracer, step: Step) -> Dims:
    """Back to the places that a max pool noted."""
    x, places = step.values
    dims: Dims = untracked(step.outputs[0])
    spatial = 3 if step.op.overloadpacket.__name__.endswith("3d") else 2
    for d in range(len(dims) - spatial):
        if t.dims[x][d] is not None or t.dims[places][d] is not None:
            dims[d] = t.tie(t.dims[x][d], t.dims[places][d], f"{step} mixes it with others")
    return dims
