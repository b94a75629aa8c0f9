"""Pages of other sites, names that point here, and what the log has."""

import asyncio
import logging
from typing import Any

import pytest

from resdet.serving.guard import Guard
from resdet.serving.settings import Settings

OTHER = "https://evil.example"


def ask(
    settings: Settings | None = None, method: str = "POST", path: str = "/predict", **headers: str
) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer of an application that answers everything with 200."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    guard = Guard(
        app,
        settings or Settings(),
        host="127.0.0.1",
        routes=("/predict", "/health"),
        on_answer=lambda route, status, seconds: None,
    )
    pairs = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
    asyncio.run(guard(scope, None, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost:9", 200),
        ("models.localhost", 200),
        ("[::1]:8000", 200),
        ("192.168.7.9", 200),
        # a page of this name may have made it point to 127.0.0.1
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("[::1", 403),
        ("[evil]", 403),
        ("a" * 5000, 403),
    ],
)
def test_a_page_cannot_reach_the_server_by_a_name_of_its_own(host: str, status: int) -> None:
    assert ask(host=host)[0] == ask(method="GET", host=host)[0] == status


def test_names_can_be_allowed() -> None:
    settings = Settings(allow_hosts=("Serve.Example.org",))
    assert ask(settings, host="serve.example.ORG:443")[0] == 200
    assert ask(settings, host="example.org")[0] == 403
    assert ask(Settings(allow_hosts=("*",)), host="anything")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": OTHER}, 403),
        ({"origin": "null"}, 403),
        # another server on this machine
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_send_images(headers: dict[str, str], status: int) -> None:
    got, answer = ask(host="127.0.0.1:8000", **headers)
    assert got == status
    assert "access-control-allow-origin" not in answer
    assert answer["x-content-type-options"] == "nosniff"


def test_a_site_can_be_allowed() -> None:
    settings = Settings(allow_origins=("https://app.example/",))
    got, answer = ask(settings, host="localhost", origin="https://app.example")
    assert got == 200 and answer["access-control-allow-origin"] == "https://app.example"
    assert answer["vary"] == "Origin"
    got, answer = ask(settings, method="OPTIONS", host="localhost", origin="https://app.example")
    assert got == 204 and "content-type" in answer["access-control-allow-headers"]
    assert ask(settings, host="localhost", origin=OTHER)[0] == 403


def test_the_log_has_nothing_that_the_client_chose(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="resdet"):
        ask(host="localhost", path="/secret\n/path", referer="secret")
        ask(host="localhost", path="/health", method="GET")
    assert [record.getMessage().split(" in ")[0] for record in caplog.records] == [
        "POST other: 200"
    ]
