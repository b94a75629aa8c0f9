"""What a server accepts, and how it computes; defaults of the options of `resdet serve`."""

from dataclasses import dataclass

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Settings:
    """Limits per request and of the whole server."""

    score_thresh: float | None = None
    """0..1, where a request gives none; None is .5 for a detector and all five classes of a
    classifier."""
    tile: int | None = None
    overlap: float | None = None
    """As in `Predictor.tiling`."""
    max_batch: int = 8
    """Images, or tiles of one image, per forward pass."""
    max_wait_ms: float = 5.0
    """How long an image waits for others while the network is idle."""
    max_requests: int = 32
    """Requests that are read, wait or are computed at a time; more get status 503."""
    timeout_s: float = 30.0
    """From the head of a request to its answer."""
    max_upload_mb: float = 20.0
    """Bytes of a request's body, in millions."""
    max_pixels: int = 50_000_000
    """Of an image; its file may be much smaller."""
    allow_hosts: tuple[str, ...] = ()
    """Names in addresses of this server besides IP addresses, localhost and the machine's name; "*"
    is any."""
    allow_origins: tuple[str, ...] = ()
    """Sites, such as https://example.org, whose pages may use this server; "*" is any."""

    @property
    def max_upload(self) -> int:
        """Bytes."""
        return round(self.max_upload_mb * MEGABYTE)
