"""The image in the body of a request, read within a limit of bytes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

# what starlette parses forms with; imported here so that its absence shows at the start
import python_multipart  # noqa: F401
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from resdet.errors import UserError

MOST_PARTS = 8
"""Fields and files of a form."""
FORM = 4096
"""Bytes that a form may have beside its files."""
DRAIN_S, DRAIN_TIMES = 3.0, 4
"""How long, and how many times the limit, of an upload that is too large is read and thrown away:
a connection that is closed while the client still sends would lose it the answer."""


class Refused(UserError):
    """A request that gets an error in place of an answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def read_image(request: Request, most: int) -> bytes:
    """The bytes of the image in a body of at most `most` bytes: those of a form's only file, or
    the whole body of any other content type.

    Raises:
        Refused: there is no image, or too much; ClientDisconnect: the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        # what curl --data makes of a file is no longer that file
        raise Refused(
            415,
            "the body is a form without a file; send the image as the body with its own content "
            "type, or in a form of multipart/form-data",
        )
    is_form = kind == "multipart/form-data"
    limit = most + FORM if is_form else most
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdecimal() and int(length) > limit:
        await _drain(request, limit)
        raise _too_large(most)
    data = await _read_form(request, most) if is_form else await _read_body(request, most)
    if not data:
        raise Refused(400, "the request has no image; send its bytes as the body, or in a form")
    return data


def _too_large(most: int) -> Refused:
    return Refused(
        413, f"the upload has more than {most:,} bytes, which this server allows (--max-upload)"
    )


async def _chunks(request: Request, limit: int, most: int) -> AsyncIterator[bytes]:
    """The body piece by piece; Refused as soon as it is longer than `limit` bytes."""
    seen, is_last = 0, False
    while not is_last:
        chunk, is_last = await _receive(request)
        seen += len(chunk)
        if seen > limit:
            if not is_last:
                await _drain(request, limit)
            raise _too_large(most)
        yield chunk


async def _receive(request: Request) -> tuple[bytes, bool]:
    """A piece of the body, and whether it is the last."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), not message.get("more_body", False)


async def _read_body(request: Request, most: int) -> bytes:
    data = bytearray()
    async for chunk in _chunks(request, most, most):
        data += chunk
    return bytes(data)


async def _read_form(request: Request, most: int) -> bytes:
    """The file of a form, which never touches a disk."""

    class InMemory(MultiPartParser):
        spool_max_size = most + FORM

    parser = InMemory(
        request.headers,
        _chunks(request, most + FORM, most),  # type: ignore[arg-type]
        max_files=MOST_PARTS,
        max_fields=MOST_PARTS,
        max_part_size=FORM,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the form can't be read ({error.message}); send it again") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    try:
        if len(files) != 1:
            raise Refused(
                400,
                f"the form has {len(files)} files; send one image per request, as a file of the "
                "form (curl -F image=@photo.jpg)",
            )
        data = await files[0].read()
    finally:
        await form.close()
    if len(data) > most:
        raise _too_large(most)
    return data


async def _drain(request: Request, limit: int) -> None:
    """Read on for a moment and forget it."""
    if "100-continue" in request.headers.get("expect", "").lower():
        return  # the client waits for the answer before it sends
    seen, is_last = 0, False
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while seen < DRAIN_TIMES * limit and not is_last:
                chunk, is_last = await _receive(request)
                seen += len(chunk)
