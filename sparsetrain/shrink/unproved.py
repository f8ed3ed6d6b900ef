"""What a proof that fails says."""


class Unproved(RuntimeError):
    """The shrunk model does not run, or does not compute what it should."""

    def __init__(self, reason: str, hint: str = "", training: bool = False) -> None:
        super().__init__(reason + hint)
        self.reason, self.hint, self.training = reason, hint, training

    def at(self, where: str) -> "Unproved":
        """The same, with the step at which it begins."""
        return type(self)(f"{self.reason}, first at {where}", self.hint, self.training)


class Differs(Unproved):
    """Two numbers that should be the same."""
