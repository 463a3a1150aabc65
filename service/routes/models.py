"""`GET /v1/models`: the one model of this server, and the check that a request means it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from service.errors import MODEL_NOT_FOUND, ApiError
from service.resident import Loaded
from service.routes.replies import MODEL, MODEL_ID, MODELS
from service.routes.state import TheLoaded
from service.schemas.openai_replies import ModelCard, ModelList
from service.validation import shown

router = APIRouter(prefix="/v1", tags=["openai"])


@router.get("/models", responses=MODELS)
async def models(loaded: TheLoaded) -> ModelList:
    """The one model this server has."""
    return ModelList(data=[_model(loaded)])


@router.get("/models/{model_id:path}", responses=MODEL)
async def model(model_id: Annotated[str, Path(examples=[MODEL_ID])], loaded: TheLoaded) -> ModelCard:
    """One model by name."""
    check_model(model_id, loaded)
    return _model(loaded)


def check_model(name: str | None, loaded: Loaded) -> None:
    """Raise ApiError 404 when a request names another model than the one that is served; it may name none."""
    here = loaded.engine.lm.name
    if name is not None and name != here:
        raise ApiError(
            MODEL_NOT_FOUND,
            f"model {shown(name)} is not served here; this server has '{here}' (GET /v1/models)",
            param="model",
        )


def _model(loaded: Loaded) -> ModelCard:
    return ModelCard(id=loaded.engine.lm.name)
