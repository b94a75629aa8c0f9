"""Many small files in order, read ahead of whoever parses them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK = 1024
"""Files read at a time."""

THREADS = 8
"""That read, so that waiting for a cold disk or a network overlaps."""


def read_ahead(folder: Path, files: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
    """Each file below a folder and its bytes, or the error of reading it; an empty name has
    no bytes."""

    def read(chunk: Sequence[str]) -> list[bytes | OSError]:
        contents: list[bytes | OSError] = []
        for file in chunk:
            try:
                contents.append((folder / file).read_bytes() if file else b"")
            except OSError as error:
                contents.append(error)
        return contents

    chunks = [files[first : first + CHUNK] for first in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        reading = [pool.submit(read, chunk) for chunk in chunks[:THREADS]]
        for position, chunk in enumerate(chunks):
            contents = reading.pop(0).result()
            if position + THREADS < len(chunks):
                reading.append(pool.submit(read, chunks[position + THREADS]))
            yield from zip(chunk, contents, strict=True)
