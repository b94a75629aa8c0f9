"""The routes of the server and what their schema says, on FastAPI."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, BeforeValidator
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from resdet.errors import UserError
from resdet.files.image_limits import TooLarge
from resdet.serving import metrics
from resdet.serving.answers import Masks
from resdet.serving.batching import Job
from resdet.serving.guard import GONE
from resdet.serving.page import content_policy, page
from resdet.serving.service import Answered, Asked, NotReady, Service
from resdet.serving.uploads import Refused, read_image
from resdet.version import __version__

ROUTES = ("/", "/predict", "/model", "/health", "/metrics", "/openapi.json")
AGAIN_S = 1
"""Seconds after which a client may try again."""
T = TypeVar("T")


class Problem(BaseModel):
    """Every answer with a status from 400."""

    error: str


class Detection(BaseModel):
    """One object; values of further branches are beside these under their own names."""

    box: list[float]
    """x1, y1, x2, y2 in pixels of the image, upright."""
    score: float
    label: int
    """0..K-1."""
    class_name: str
    category_id: int
    """That of the annotations in training."""
    rle: dict[str, Any] | None = None
    """The mask as COCO's compressed run lengths: size and counts."""
    polygons: list[list[tuple[int, int]]] | None = None
    """The mask as rings, holes included, by the even-odd rule."""


class ScoredClass(BaseModel):
    """One class of a classifier."""

    label: int
    name: str
    words: str
    score: float


class Prediction(BaseModel):
    """Of one image: detections of a detector, classes of a classifier, the best first."""

    width: int
    height: int
    detections: list[Detection] | None = None
    classes: list[ScoredClass] | None = None
    warning: str | None = None
    """Why small objects may be missed."""


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Prediction, "content": {"image/png": {}}},
    **{
        status: {"model": Problem, "description": text}
        for status, text in {
            400: "no image, or one that can't be read",
            403: "a page of another site, or a name that is not the server's",
            408: "the upload took too long",
            413: "more bytes or pixels than are allowed",
            415: "a body that holds no file",
            422: "a parameter out of its range",
            503: "too many requests, or the model is being loaded; see Retry-After",
            504: "the network took too long",
        }.items()
    },
}


def make_api(service: Service) -> FastAPI:
    """The application: `GET /` the page, `POST /predict`, `/model`, `/health`, `/metrics`, and
    `/openapi.json`. Pages that explain the schema are left out: they load scripts from elsewhere.
    """
    app = FastAPI(title="resdet", version=__version__, docs_url=None, redoc_url=None)
    _add_errors(app)

    @app.post("/predict", responses=RESPONSES, openapi_extra=BODY, response_class=JSONResponse)
    async def predict(
        request: Request,
        score_thresh: Annotated[
            float | None, Query(ge=0, le=1, description="leave out what scores at or below")
        ] = None,
        masks: Annotated[Masks, Query(description="how masks are in the JSON")] = "none",
        draw: Annotated[
            bool,
            BeforeValidator(lambda value: True if value == "" else value),
            Query(description="a PNG in place of JSON, as with Accept: image/png"),
        ] = False,
    ) -> Response:
        """The prediction of one image: the body, or the file of a form."""
        draw = draw or _prefers_png(request.headers.get("accept", ""))
        return await _predict(service, request, score_thresh, masks, draw)

    @app.get("/health", responses={503: {"model": Problem}})
    async def health() -> dict[str, str]:
        """Whether the model is loaded and predicts."""
        service.ready_model()
        return {"status": "ready"}

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """What is served: task, classes, limits."""
        return service.describe()

    @app.get("/metrics", response_class=PlainTextResponse)
    async def numbers() -> Response:
        """Counters in the text format of Prometheus."""
        text = "".join(f"{line}\n" for line in service.metrics())
        return Response(text, media_type=metrics.CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def home() -> Response:
        return HTMLResponse(page(), headers={"content-security-policy": content_policy()})

    return app


async def _predict(
    service: Service, request: Request, score_thresh: float | None, masks: Masks, draw: bool
) -> Response:
    """Admit, read and answer one request within its time."""
    service.ready_model()
    settings = service.settings
    if service.in_progress >= settings.max_requests:
        text = f"{settings.max_requests} requests are in progress; try again in a moment"
        return _problem(503, text)
    jobs: list[Job] = []
    has_read = False
    service.in_progress += 1
    try:
        async with asyncio.timeout(settings.timeout_s):
            data = await read_image(request, settings.max_upload)
            has_read = True
            asked = Asked(data, score_thresh, masks, draw)
            answered = await _while_there(request, service.answer(asked, jobs.append))
    except TimeoutError:
        return _late(settings.timeout_s, has_read, jobs)
    finally:
        service.in_progress -= 1
    return _response(answered)


async def _while_there(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leaving(request.receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()
        # until it is cancelled, with its job
        await asyncio.wait({task, leaving})


async def _leaving(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _late(seconds: float, has_read: bool, jobs: list[Job]) -> Response:
    """The answer to a request whose time is over. A job that was still queued is cancelled by now,
    and is never computed."""
    if not has_read:
        return _problem(408, f"the upload was not complete after {seconds:g} s; send it again")
    if not jobs or jobs[0].future.cancelled():
        text = f"the request waited for {seconds:g} s behind others; try again later"
        return _problem(503, text)
    return _problem(504, f"the network took longer than the {seconds:g} s of --timeout")


def _response(answered: Answered) -> Response:
    steps = ", ".join(f"{name};dur={1e3 * value:.1f}" for name, value in answered.timing.items())
    headers = {"server-timing": steps}
    if isinstance(answered.body, bytes):
        return Response(answered.body, media_type="image/png", headers=headers)
    text = json.dumps(answered.body, allow_nan=False, separators=(",", ":"))
    return Response(text, media_type="application/json", headers=headers)


def _prefers_png(accept: str) -> bool:
    """Whether the header Accept gives PNG a higher weight than JSON."""
    weights = {"image/png": 0.0, "application/json": 0.0}
    for part in accept.lower().split(","):
        kind, *options = (each.strip() for each in part.split(";"))
        given = [each[2:] for each in options if each.startswith("q=")]
        try:
            weight = float(given[0]) if given else 1.0
        except ValueError:
            weight = 0.0
        for name in (name for name in weights if kind in (name, f"{name.split('/')[0]}/*")):
            weights[name] = max(weights[name], weight)
    return weights["image/png"] > weights["application/json"]


def _problem(status: int, text: str, **headers: str) -> Response:
    if status == 503:
        headers["retry-after"] = str(AGAIN_S)
    return JSONResponse({"error": text}, status_code=status, headers=headers)


def _add_errors(app: FastAPI) -> None:
    """Every error as {"error": sentence}."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)
        if isinstance(error, NotReady):
            return _problem(503, str(error))
        if isinstance(error.__cause__, TooLarge):
            return _problem(413, str(error))
        return _problem(error.status if isinstance(error, Refused) else 400, str(error))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return _problem(422, f"{first['loc'][-1]}: {first['msg'][:1].lower()}{first['msg'][1:]}")

    async def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _problem(error.status_code, f"{error.detail}; routes are {', '.join(ROUTES)}")

    async def failed(request: Request, error: Exception) -> Response:
        return _problem(500, "the server failed on this request; its log has the reason")

    app.add_exception_handler(Exception, failed)
    app.add_exception_handler(UserError, refused)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, other)
