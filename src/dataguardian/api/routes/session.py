"""Signing in and out, the first administrator, and what everybody does with the own account."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from dataguardian.api.access import SignedInHere, address_of, end_cookie, requires, set_cookie, signed_in
from dataguardian.api.dependencies import Given, Id
from dataguardian.api.errors import documented, documented_for_all
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.access import (
    ActorOut,
    CodeIn,
    EnrolOut,
    PasswordChange,
    PasswordIn,
    RecoveryCodesOut,
    SessionOut,
    SetupIn,
    SetupOut,
    SignInBody,
    SignInOut,
    UserOut,
)
from dataguardian.api.schemas.common import Listing, whole
from dataguardian.domain.access import Permission
from dataguardian.service.access.sessions import csrf_of
from dataguardian.service.acting import current_actor

setup = APIRouter(prefix="/api/setup", tags=["session"], route_class=PatientRoute)
router = APIRouter(prefix="/api/session", tags=["session"], route_class=PatientRoute)
account = APIRouter(prefix="/api/account", tags=["account"], route_class=PatientRoute)


@setup.get("", responses=documented_for_all())
async def get_setup(services: Given) -> SetupOut:
    """Whether this installation still waits for its first administrator."""
    return SetupOut(needed=await services.setup.is_needed())


@setup.post("", status_code=201, responses=documented_for_all(401, 409, 413, 415, 422, 429))
async def set_up(request: Request, services: Given, body: SetupIn) -> UserOut:
    """Makes the first administrator. Takes the setup token that the console of the first start shows."""
    return UserOut.of(await services.setup.claim(body.token, body.name, body.password, address_of(request.scope)))


@router.post("", status_code=201, responses=documented_for_all(401, 413, 415, 422, 429))
async def sign_in(request: Request, response: Response, services: Given, body: SignInBody) -> SessionOut:
    """Begins a session, whose cookie comes with the answer. Whatever is wrong, the answer is the same."""
    agent = request.headers.get("user-agent", "")
    session = await services.sessions.sign_in(body.name, body.password, body.code, address_of(request.scope), agent)
    set_cookie(request.scope, response, session.secret)
    return SessionOut.of(session)


@router.get("", dependencies=[requires(Permission.VIEW)], responses=documented())
async def get_session(request: Request) -> ActorOut:
    """Who makes this request, by a session or a token, and what they may do."""
    here = signed_in(request)
    return ActorOut.of(current_actor(), here.known if here else None, csrf_of(here.secret) if here else None)


@router.delete("", status_code=204, dependencies=[requires(Permission.VIEW)], responses=documented(413, 415))
async def sign_out(request: Request, services: Given, here: SignedInHere) -> Response:
    await services.sessions.sign_out(here.known.id)
    answer = Response(status_code=204)
    end_cookie(request.scope, answer)
    return answer


@account.post(
    "/password", status_code=201, dependencies=[requires(Permission.VIEW)], responses=documented(413, 415, 422, 429)
)
async def change_own_password(
    request: Request, response: Response, services: Given, here: SignedInHere, body: PasswordChange
) -> SessionOut:
    """Sets another password. That ends every session; the answer begins a new one for whoever asked."""
    address = address_of(request.scope)
    user = await services.sessions.confirm(here.known.user.id, body.current_password, address)
    user = await services.users.set_password(user.id, body.password)
    session = await services.sessions.begin(user, address, request.headers.get("user-agent", ""))
    set_cookie(request.scope, response, session.secret)
    return SessionOut.of(session)


@account.post("/second-factor", dependencies=[requires(Permission.VIEW)], responses=documented(409, 413, 415, 422, 429))
async def enrol_second_factor(request: Request, services: Given, here: SignedInHere, body: PasswordIn) -> EnrolOut:
    """Draws the secret for an authenticator app. It counts once it is confirmed with a code."""
    user = await services.sessions.confirm(here.known.user.id, body.password, address_of(request.scope))
    secret, uri = await services.users.enrol(user.id)
    return EnrolOut(secret=secret, uri=uri)


@account.post(
    "/second-factor/confirm", dependencies=[requires(Permission.VIEW)], responses=documented(409, 413, 415, 422)
)
async def confirm_second_factor(services: Given, here: SignedInHere, body: CodeIn) -> RecoveryCodesOut:
    """From now on signing in takes a code. The recovery codes are shown this once."""
    return RecoveryCodesOut(recovery_codes=await services.users.confirm(here.known.user.id, body.code))


@account.post(
    "/second-factor/disable", dependencies=[requires(Permission.VIEW)], responses=documented(413, 415, 422, 429)
)
async def disable_second_factor(request: Request, services: Given, here: SignedInHere, body: PasswordIn) -> UserOut:
    user = await services.sessions.confirm(here.known.user.id, body.password, address_of(request.scope))
    return UserOut.of(await services.users.disable_totp(user.id))


@account.get("/sign-ins", dependencies=[requires(Permission.VIEW)], responses=documented())
async def list_own_sign_ins(services: Given, here: SignedInHere) -> Listing[SignInOut]:
    """Where the own user is signed in."""
    return whole(await services.sessions.of_user(here.known.user.id), SignInOut.of)


@account.delete(
    "/sign-ins/{sign_in_id}",
    status_code=204,
    dependencies=[requires(Permission.VIEW)],
    responses=documented(404, 413, 415, 422),
)
async def end_own_sign_in(services: Given, here: SignedInHere, sign_in_id: Id) -> Response:
    await services.sessions.end(here.known.user.id, sign_in_id)
    return Response(status_code=204)
