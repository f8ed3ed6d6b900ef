"""What the engine cannot run, and why."""


class Undeployable(ValueError):
    """A network has an operation that the engine does not; the message names it and its place."""


class Refused(Exception):
    """A rule cannot say its step in the engine's operations; the reason ends a sentence."""


class FixedBatch(Exception):
    """The program cannot be written for all batches; the reason ends a sentence."""
