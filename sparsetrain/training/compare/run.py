"""Run a grid in one process, in several of one machine, or in those that torchrun starts.

Every process walks over the cells and takes those that have no result and that no other process
holds (`exclusive`), so it does not matter who starts when, or who is killed.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import torch
from rich.console import Console

from sparsetrain.data import Images, load
from sparsetrain.support.locks import exclusive
from sparsetrain.training.compare import report
from sparsetrain.training.compare.board import Board
from sparsetrain.training.compare.cell import record_failure, run_cell
from sparsetrain.training.compare.grid import RESULT, Cell, Grid
from sparsetrain.training.interrupt import ENDED

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Work:
    """What a process needs to take its part of a grid."""

    grid: Grid
    out: Path
    keep_checkpoints: bool
    failed: Mapping[str, int]  # cell -> when its result was written: failures to try again


def compare(
    grid: Grid,
    out: Path,
    console: Console,
    *,
    jobs: int = 1,
    keep_checkpoints: bool = False,
) -> bool:
    """Run what is missing of the grid in `out`, then write its report.

    Under torchrun each process takes cells, and rank 0 waits for all and writes the report.

    Returns:
        Whether every cell came to a result, none failed.

    Raises:
        KeyboardInterrupt, Stopped: a signal; running cells have written a checkpoint.
    """
    rank, world = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if jobs > 1 and world > 1:
        raise ValueError("compare: torchrun starts the processes already; leave --jobs at 1")
    beside = jobs if world == 1 else int(os.environ.get("LOCAL_WORLD_SIZE", world))
    threads = max((grid.config.threads or torch.get_num_threads()) // beside, 1)
    grid = replace(grid, config=replace(grid.config, threads=threads))
    grid.config.prepare_torch()
    data = load(grid.config.data, grid.config.data_dir, workers=grid.config.workers)
    cells = grid.cells(data)
    grid.open(out)
    work = Work(grid, out, keep_checkpoints, _failures(cells, out))
    board = Board(console if rank == 0 else None, cells, out, partial(_missing, work))
    with board.shown():
        if jobs > 1:
            _spawn(work, cells, data, jobs, board)
        else:
            _use_device(int(os.environ.get("LOCAL_RANK", "0")))
            _take_cells(work, cells, data, board, wait=rank == 0)
    if rank != 0:
        return True
    report.write(out, grid.methods, console)
    return not any("error" in (cell.result(out) or {}) for cell in cells)


def _failures(cells: list[Cell], out: Path) -> dict[str, int]:
    found = {cell.name: cell.result(out) for cell in cells}
    return {cell.name: _written(cell, out) for cell in cells if "error" in (found[cell.name] or {})}


def _written(cell: Cell, out: Path) -> int:
    try:
        return (cell.folder(out) / RESULT).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _missing(work: Work, cell: Cell) -> bool:
    """Whether a cell has no result, or one that failed before this call."""
    return _written(cell, work.out) in (0, work.failed.get(cell.name))


def _take_cells(
    work: Work,
    cells: list[Cell],
    data: Images,
    board: Board,
    *,
    wait: bool,
    stop: Event | None = None,
) -> None:
    """Run cells until all have results, or with `wait=False` until others hold the rest."""
    while left := [cell for cell in cells if _missing(work, cell)]:
        took_one = False
        for cell in left:
            with exclusive(cell.folder(work.out)) as ours:
                if not ours or not _missing(work, cell):
                    continue
                took_one, progress = True, board.of(cell)
                keep = work.keep_checkpoints
                run_cell(cell, work.out, data, progress, keep_checkpoint=keep)
            board.refresh()
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
        if not took_one and not wait:
            return
        if not took_one:
            time.sleep(POLL_SECONDS)
            board.refresh()


def _use_device(number: int) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _spawn(work: Work, cells: list[Cell], data: Images, jobs: int, board: Board) -> None:
    """Let `jobs` processes do it, and show what they write."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes = [context.Process(target=_worker, args=(work, n, stop)) for n in range(jobs)]
    with _deaf_to_ctrl_c():
        for process in processes:
            process.start()
    try:
        while any(process.is_alive() for process in processes):
            time.sleep(POLL_SECONDS)
            board.refresh()
    except ENDED:
        stop.set()
        _end(processes)
        raise
    codes = [process.exitcode for process in processes]
    if 1 in codes:  # the process has said why
        raise ChildProcessError("a process could not go on; the same command continues")
    for cell in cells:
        if _missing(work, cell):
            why = f"the processes died before it had ended, exit codes {codes}"
            record_failure(cell, work.out, data, why)
    board.refresh()


def _end(processes: list[SpawnProcess]) -> None:
    """Ask each once to write its checkpoint, and wait."""
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)
    for process in processes:
        process.join()


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C either, until they can end cleanly."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _worker(work: Work, number: int, stop: Event) -> None:
    """A spawned process: its own process group, so that the parent alone passes Ctrl-C on."""
    os.setpgrp()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if stop.is_set():
            return
        _use_device(number)
        config = work.grid.config
        config.prepare_torch()
        data = load(config.data, config.data_dir, workers=config.workers)
        cells = work.grid.cells(data)
        board = Board(None, cells, work.out, partial(_missing, work))
        _take_cells(work, cells, data, board, wait=False, stop=stop)
    except ENDED:
        return
    except OSError as error:
        print(f"sparsetrain: {error}", file=sys.stderr)
        sys.exit(1)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
