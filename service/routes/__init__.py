"""Routes, one idea a file: parse, call what does the work, shape the answer."""

from service.routes import (
    evaluations,
    generate,
    models,
    openai_api,
    operations,
    pages,
    policies,
    probes,
    steering_api,
    tokens,
)

ROUTERS = tuple(
    module.router
    for module in (
        generate,
        models,
        openai_api,
        tokens,
        steering_api,
        probes,
        policies,
        evaluations,
        operations,
        pages,
    )
)
"""In the order of the OpenAPI document."""

__all__ = ["ROUTERS"]
