"""Which steps the engine may compute together, tile by tile, and how long buffers then live.

Products that follow each other on large images are computed rows by rows, so that each finds its
input in the cache. The engine does so (csrc/engine/session.cpp) where they stand side by side and
none writes where an earlier one reads: here that is seen to.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsetrain_runtime.words import Step

MOST = 4  # steps together
LARGE = 2**21  # bytes of a result from which it pays
KERNEL = slice(5, 8)  # rows, columns and stride among a product's attributes


def together(steps: Sequence[Step]) -> list[Step]:
    """The steps with zeros of halos before the products that they stood between.

    Buffers get the steps between which they live: those of products together, all of these.
    """
    found: list[Step] = []
    left = list(steps)
    while left:
        run, halos, rest = _run(left)
        begin, end = len(found), len(found) + len(halos) + len(run) - 1
        for step in (*halos, *run):
            for view in (*step.inputs, *step.outputs):
                if view.buffer.first < 0:
                    view.buffer.first = begin
                view.buffer.last = end
        found += [*halos, *run]
        left = rest
    return found


def _run(steps: list[Step]) -> tuple[list[Step], list[Step], list[Step]]:
    """The next steps that go together, the halos among them, and what is left."""
    run, halos, at = [steps[0]], [], 1
    while len(run) < MOST:
        ahead = at
        while ahead < len(steps) and steps[ahead].operation == "halo":
            ahead += 1
        if ahead == len(steps) or not _follows(run[-1], steps[ahead]):
            break
        halos += steps[at:ahead]
        run.append(steps[ahead])
        at = ahead + 1
    return run, halos, steps[at:]


def _follows(step: Step, following: Step) -> bool:
    if step.operation != "product" or following.operation != "product":
        return False
    y, x = step.outputs[0], following.inputs[0]
    pixels = following.attributes[KERNEL] == (1, 1, 1) and x.shape[2] == 1
    return pixels and y.buffer is x.buffer and y.offset == x.offset and 4 * y.count >= LARGE
