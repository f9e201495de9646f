"""The application: every route behind one gate, and one shape of errors."""

from __future__ import annotations

import asyncio
from threading import Lock
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from dataguardian import __version__
from dataguardian.api import errors
from dataguardian.api.access import PUBLIC, SECURITY_SCHEMES, Access, declarations, declared, requires
from dataguardian.api.gate import Bodies, Gate
from dataguardian.api.routes import (
    audit,
    backup_jobs,
    configuration,
    datasources,
    executions,
    health,
    notifications,
    recovery,
    session,
    storage_locations,
    system,
    users,
    work,
)
from dataguardian.api.schemas.common import ErrorOut
from dataguardian.domain.access import Permission
from dataguardian.service.services import Services

document = APIRouter(prefix="/api")

ROUTERS = (
    datasources.router,
    storage_locations.router,
    backup_jobs.router,
    executions.router,
    recovery.objects,
    work.restores,
    work.repairs,
    work.verifications,
    health.router,
    notifications.router,
    system.router,
    recovery.router,
    configuration.router,
    audit.router,
    session.setup,
    session.router,
    session.account,
    users.users,
    users.tokens,
    health.probes,
    document,
)
_ABOUT = (
    "Backups that are known to restore. Lists take `page` and `limit`; times are RFC 3339 in UTC, sizes bytes; every "
    "error is `{error, message, details}`. Every request says who makes it, by a token or by a session; `x-permission` "
    "is what it takes. A change by session needs the headers Origin and X-CSRF-Token, too."
)


def create_app(services: Services) -> FastAPI:
    """Returns the application. Whoever stops the server sets `app.state.stopping` first, which ends event streams."""
    app = _App(
        title="DataGuardian",
        version=__version__,
        description=_ABOUT,
        openapi_url=None,  # a route of ours, because not everybody may see it
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=_operation,
        separate_input_output_schemas=False,
    )
    app.state.services = services
    app.state.stopping = asyncio.Event()
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    declared(routes)
    app.state.routes = routes
    app.add_middleware(Bodies, public=PUBLIC)
    app.add_middleware(Access, services=services)
    app.add_middleware(Gate, settings=services.context.settings)
    return app


@document.get("/openapi.json", dependencies=[requires(Permission.VIEW)], include_in_schema=False)
async def get_document(request: Request) -> JSONResponse:
    """Made when it is first asked for, which takes a second: in a thread, so that nobody else waits."""
    return JSONResponse(await asyncio.to_thread(request.app.openapi))


def _operation(route: APIRoute) -> str:
    return route.name


class _App(FastAPI):
    def __init__(self, **given: Any) -> None:  # noqa: ANN401 -- FastAPI's own
        super().__init__(**given)
        self._making = Lock()

    def openapi(self) -> dict[str, Any]:
        """Returns the API's own document, made once; for any thread."""
        with self._making:
            return self._made()

    def _made(self) -> dict[str, Any]:
        if not self.openapi_schema:
            made = super().openapi()
            components = made["components"]
            schema = ErrorOut.model_json_schema(ref_template="#/components/schemas/{model}")
            schema.pop("$defs", None)  # they are components already
            components["schemas"].setdefault(errors.SCHEMA_NAME, schema)
            components["securitySchemes"] = SECURITY_SCHEMES
            made["security"] = [{name: []} for name in SECURITY_SCHEMES]
            for route in self.state.routes:
                _say_who(made["paths"].get(route.path_format, {}), route)
        return super().openapi()


def _say_who(path: dict[str, Any], route: APIRoute) -> None:
    """Adds to each of a route's operations which permission it needs, or that it needs nobody to sign in."""
    needed = declarations(route)
    for method in route.methods or ():
        operation = path.get(method.lower(), {})
        if needed and operation:
            operation["x-permission"] = needed[0].permission.value
        elif operation:
            operation["security"] = []
