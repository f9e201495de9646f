"""Users and tokens."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dataguardian.api.access import requires
from dataguardian.api.dependencies import Given, Id, Paged
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.access import (
    EndedOut,
    PasswordIn,
    SignInOut,
    TokenIn,
    TokenMade,
    TokenOut,
    UserChange,
    UserIn,
    UserOut,
)
from dataguardian.api.schemas.common import Listing, listing, whole
from dataguardian.domain.access import Permission
from dataguardian.service.acting import current_actor

users = APIRouter(prefix="/api/users", tags=["users"], route_class=PatientRoute)
tokens = APIRouter(prefix="/api/tokens", tags=["tokens"], route_class=PatientRoute)


@users.get("", dependencies=[requires(Permission.ADMINISTER)], responses=documented(422))
async def list_users(services: Given, paging: Paged) -> Listing[UserOut]:
    """Newest first."""
    return listing(await services.users.page(paging.page, paging.limit), UserOut.of)


@users.post(
    "",
    status_code=201,
    dependencies=[requires(Permission.ADMINISTER)],
    responses=documented(404, 409, 413, 415, 422, 429),
)
async def create_user(services: Given, body: UserIn) -> UserOut:
    row = await services.users.create(
        name=body.name,
        password=body.password,
        role=body.role,
        enabled=body.enabled,
        datasource_ids=None if body.datasource_ids is None else frozenset(body.datasource_ids),
    )
    return UserOut.of(row)


@users.get("/{user_id}", dependencies=[requires(Permission.ADMINISTER)], responses=documented(404, 422))
async def get_user(services: Given, user_id: Id) -> UserOut:
    return UserOut.of(await services.users.get(user_id))


@users.put("/{user_id}", dependencies=[requires(Permission.ADMINISTER)], responses=documented(404, 409, 413, 415, 422))
async def change_user(services: Given, user_id: Id, body: UserChange) -> UserOut:
    """One enabled administrator always stays: 409 for the last one."""
    return UserOut.of(await services.users.change(user_id, body.sent()))


@users.delete(
    "/{user_id}",
    status_code=204,
    dependencies=[requires(Permission.ADMINISTER)],
    responses=documented(404, 409, 413, 415, 422),
)
async def delete_user(services: Given, user_id: Id) -> Response:
    """Removes a user; the user's sessions and tokens end."""
    await services.users.delete(user_id)
    return Response(status_code=204)


@users.post(
    "/{user_id}/password",
    dependencies=[requires(Permission.ADMINISTER)],
    responses=documented(404, 413, 415, 422, 429),
)
async def set_user_password(services: Given, user_id: Id, body: PasswordIn) -> UserOut:
    """Sets another password, which ends every session of the user, and a lock-out."""
    return UserOut.of(await services.users.set_password(user_id, body.password))


@users.post(
    "/{user_id}/second-factor/disable",
    dependencies=[requires(Permission.ADMINISTER)],
    responses=documented(404, 413, 415, 422),
)
async def disable_user_second_factor(services: Given, user_id: Id) -> UserOut:
    """For somebody who has lost both the app and the recovery codes."""
    return UserOut.of(await services.users.disable_totp(user_id))


@users.get("/{user_id}/sign-ins", dependencies=[requires(Permission.ADMINISTER)], responses=documented(404, 422))
async def list_user_sign_ins(services: Given, user_id: Id) -> Listing[SignInOut]:
    """Where a user is signed in."""
    return whole(await services.sessions.of_user(user_id), SignInOut.of)


@users.delete(
    "/{user_id}/sign-ins", dependencies=[requires(Permission.ADMINISTER)], responses=documented(404, 413, 415, 422)
)
async def end_user_sign_ins(services: Given, user_id: Id) -> EndedOut:
    """Ends every session of a user."""
    await services.users.get(user_id)
    return EndedOut(ended=await services.sessions.end_all(user_id))


@tokens.get("", dependencies=[requires(Permission.VIEW)], responses=documented(422))
async def list_tokens(services: Given, paging: Paged) -> Listing[TokenOut]:
    """Newest first: the own ones; an administrator's list has those of everybody."""
    return listing(await services.tokens.page_for(current_actor(), paging.page, paging.limit), TokenOut.of)


@tokens.post(
    "", status_code=201, dependencies=[requires(Permission.VIEW)], responses=documented(404, 409, 413, 415, 422)
)
async def create_token(services: Given, body: TokenIn) -> TokenMade:
    """Makes a token that may do what its maker may, or less. This answer is the only one that shows it."""
    row, secret = await services.tokens.create_for(
        current_actor(),
        name=body.name,
        role=body.role,
        permissions=body.permissions,
        datasource_ids=None if body.datasource_ids is None else frozenset(body.datasource_ids),
        expires_at=body.expires_at,
    )
    return TokenMade.made(row, secret)


@tokens.delete(
    "/{token_id}", status_code=204, dependencies=[requires(Permission.VIEW)], responses=documented(404, 413, 415, 422)
)
async def revoke_token(services: Given, token_id: Id) -> Response:
    """Ends a token at once. Administrators end anybody's, others their own."""
    await services.tokens.revoke_for(current_actor(), token_id)
    return Response(status_code=204)
