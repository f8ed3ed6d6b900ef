"""What a server allows: sizes, numbers and times."""

from dataclasses import dataclass

LONGEST = 86_400  # seconds


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        max_batch: items that a network computes in one call, at most.
        batch_deadline_ms: how long the first request of a batch waits for others.
        queue: requests that wait for one network, at most.
        max_body: bytes of one request.
        timeout: seconds from a request's head to its answer; also what a client has to take it.
        head_timeout: seconds for the head of a request, from its first byte or the connection on.
        connections: at once; one more takes the place of one that asks for nothing.
    """

    max_batch: int = 32
    batch_deadline_ms: float = 2.0
    queue: int = 256
    max_body: int = 64 * 2**20
    timeout: float = 30.0
    head_timeout: float = 10.0
    connections: int = 512

    def __post_init__(self) -> None:
        for name in ("max_batch", "queue", "max_body", "connections"):
            if getattr(self, name) < 1:
                raise ValueError(f"serve: {name} must be 1 at least, got {getattr(self, name)}")
        if not 0 <= self.batch_deadline_ms <= 60_000:
            raise ValueError(
                f"serve: batch_deadline_ms must be in [0, 60000], got {self.batch_deadline_ms}"
            )
        if not 0 < self.timeout <= LONGEST:
            raise ValueError(
                f"serve: timeout must be above 0 and {LONGEST} s at most, got {self.timeout}"
            )

    @property
    def bodies(self) -> int:
        """Bytes of all requests that are being read or computed, at most."""
        return 8 * self.max_body
