"""Where exports go."""

from pathlib import Path


def ending(who: str, path: str | Path, suffix: str) -> Path:
    """The path of a file to write.

    Raises:
        ValueError: it has another ending, or is a folder.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"{who}: path must end in {suffix}, got {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"{who}: {path} is a folder")
    return path
