"""`resdet serve` as a process: 500 requests of 8 clients, then SIGTERM; and how it fails to start.

The model is a small one with random weights, or the run folder in RESDET_SERVE_RUN.
"""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.serving.test_api import BAD, GOOD

pytestmark = pytest.mark.slow

CLIENTS, REQUESTS = 8, 500
MOST_GROWTH = 60_000_000
"""Bytes between the mean memory of the second third of predictions and that of the last."""
QUERIES = ("", "?masks=rle", "?masks=polygons", "?draw", "?score_thresh=0.05")


@contextmanager
def started(run: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its address once it is ready."""
    command = [sys.executable, "-m", "resdet", "serve", str(run), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if match := re.search(r"ready at (\S+)", line):
                break
        else:
            raise AssertionError("".join(lines))
        # a full pipe would stop it
        drain = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
        drain.start()
        yield process, match[1]
        drain.join(30)
        assert "Traceback" not in "".join(lines)
    finally:
        process.kill()
        process.wait()


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of memory of a process."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(text.split("VmRSS:")[1].split()[0])


def abort(url: str, data: bytes) -> int:
    """Send half of an image, then leave."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[: len(data) // 2])
    return 0


def test_500_requests_of_8_clients(run_folder: Path, nuclei: Path, record_property: object) -> None:
    run = Path(os.environ.get("RESDET_SERVE_RUN", run_folder))
    images = [path.read_bytes() for path in sorted((nuclei / "images").iterdir())[:40]]
    rng = random.Random(0)
    small = [(data, status) for data, status, _ in BAD.values() if len(data) < 200_000]
    limits = ("--max-upload", "2", "--max-pixels", "4000000")
    seconds: list[float] = []
    memory: list[int] = []
    with started(run, *limits) as (process, url), httpx.Client(base_url=url, timeout=120) as client:

        def ask(_: int) -> tuple[int, int]:
            """The expected status and the one that came."""
            kind = rng.random()
            if kind < 0.03:
                return 0, abort(url, rng.choice(images))
            if kind < 0.06:
                return 413, client.post("/predict", content=bytes(3_000_000)).status_code
            if kind < 0.3:
                data, status = rng.choice(small)
                status = 200 if data is BAD["too many pixels"][0] else status
                return status, client.post("/predict", files={"image": data}).status_code
            data = rng.choice(images) if kind < 0.9 else rng.choice(list(GOOD.values()))[0]
            start = time.perf_counter()
            answer = client.post(f"/predict{rng.choice(QUERIES)}", content=data)
            seconds.append(time.perf_counter() - start)
            memory.append(resident(process))
            return 200, answer.status_code

        begin = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            pairs = list(pool.map(ask, range(REQUESTS)))
        total = time.perf_counter() - begin
        _, middle, end = (part.mean() for part in np.array_split(np.array(memory), 3))
        p50, p95 = np.quantile(seconds, (0.5, 0.95))
        print(
            f"\n{REQUESTS} requests in {total:.0f} s, {len(seconds)} predictions: "
            f"p50 {p50:.2f} s, p95 {p95:.2f} s; memory {middle / 1e6:.0f} MB in the second third, "
            f"{end / 1e6:.0f} MB in the last, peak {max(memory) / 1e6:.0f} MB; "
            f"statuses {dict(Counter(came for _, came in pairs))}"
        )
        print([line for line in client.get("/metrics").text.splitlines() if "batch_size" in line])
        assert all(expected == came for expected, came in pairs), Counter(pairs)
        assert end - middle < MOST_GROWTH
        # SIGTERM while images are being predicted
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = [pool.submit(httpx.post, f"{url}/predict", content=images[0], timeout=120)
                       for _ in range(4)]  # fmt: skip
            while "resdet_requests_in_progress 4" not in client.get("/metrics").text:
                if all(answer.done() for answer in answers):
                    break
            process.send_signal(signal.SIGTERM)
            assert [answer.result().status_code for answer in answers] == [200] * 4
        assert process.wait(60) == 0


def test_what_keeps_a_server_from_starting_is_one_line(run_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, text in (
            ([str(run_folder), "--port", port], f"--port {port}: Address already in use"),
            ([str(run_folder), "--host", "no.such.name.invalid"], "is not an address of this"),
            ([str(tmp_path / "none"), "--port", "0"], "none"),
        ):
            command = [sys.executable, "-m", "resdet", "serve", *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 2
            assert text in done.stderr and "Traceback" not in done.stderr
