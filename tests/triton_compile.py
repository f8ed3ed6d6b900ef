"""Triton kernels to machine code without a GPU: `python tests/triton_compile.py FOLDER`.

Writes FOLDER/NAME.sm_90.cubin and so on. A program of its own, since the tests' process may have
Triton's interpreter on; tests/test_cuda_build.py reads what it writes.
"""

import sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparsetrain.kernels import nm_mask_transposable
from sparsetrain.kernels.channel_scores import channel_scores_kernel
from sparsetrain.kernels.nm_mask import nm_mask_kernel
from sparsetrain.kernels.relu_density import relu_density_kernel
from sparsetrain.ops.nm_mask_transposable import CHOICES, PAIRS

FLOATS = ("fp32", "bf16")


def pointers(dtype, *names, **others):
    return dict.fromkeys(names, "*" + dtype) | others


def sources():
    """Name -> kernel, the types of its arguments, its constants, as the launchers call it."""
    made = {}
    for dtype in FLOATS:
        for by_column in (False, True):
            made[f"relu_density-{dtype}-{by_column}"] = (
                relu_density_kernel,
                pointers(dtype, "x_ptr", "y_ptr", count_ptr="*i64", R="i32", W="i32", C="i32"),
                {"ROWS": 4, "COLS": 1024, "CHANNEL_IS_COLUMN": by_column},
            )
        for m in (4, 8):
            made[f"nm_mask-{dtype}-{m}"] = (
                nm_mask_kernel,
                pointers(dtype, "score_ptr", keep_ptr="*i1", total="i32", n="i32"),
                {"m": m, "M": m, "BLOCK": 8192 // m**2},
            )
        for product in (False, True):
            made[f"channel_scores-{dtype}-{product}"] = (
                channel_scores_kernel,
                pointers(dtype, "weight_ptr", "grad_ptr", row_ptr="*fp64", col_ptr="*fp64")
                | {"O": "i32", "W": "i32"},
                {"PRODUCT": product, "SQUARE": product, "ROWS": 64, "COLS": 128},
            )
    masks, bits = nm_mask_transposable.codes(PAIRS, CHOICES)
    for dtype in ("fp32", "fp64"):
        made[f"nm_mask_transposable-{dtype}"] = (
            nm_mask_transposable.nm_mask_transposable_kernel,
            pointers(dtype, "score_ptr", keep_ptr="*i1", T="i32", across="i32"),
            {"MASKS": masks, "BITS": bits, "BLOCK": nm_mask_transposable.BLOCK},
        )
    return made


def main(folder):
    for name, (kernel, types, constants) in sources().items():
        # All but nm_mask's n: addresses and sizes that are multiples of 16, as layers mostly have.
        aligned = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(types) if a != "n"}
        types = types | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, types, constants, aligned)
        for arch in (80, 90):
            compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32))
            (folder / f"{name}.sm_{arch}.cubin").write_bytes(compiled.asm["cubin"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
