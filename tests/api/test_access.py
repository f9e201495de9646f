"""Who gets in, as whom, and what they may do there: tokens, sessions, the first administrator."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dataguardian.domain.access import Permission, Role
from dataguardian.service.access import sessions, tokens
from dataguardian.service.access.totp import code_of, step_at
from tests.api.access_stage import PASSWORD, bearer, browser, client, token, user
from tests.api.stage import Desk, is_error, play


def test_a_stranger_learns_nothing_but_that_the_service_is_there(tmp_path: Path) -> None:
    """Liveness and readiness are public, without details; everything else, known or not, answers 401."""

    async def story(desk: Desk) -> None:
        async with client(desk) as stranger:
            assert (await stranger.get("/health")).status_code == 200
            ready = await stranger.get("/ready")
            assert (ready.status_code, ready.json()) == (200, {"status": "ok"})
            for path in ("/api/datasources", "/api/no-such-thing", "/api/openapi.json", "/metrics", "/", "/api/users"):
                answer = await stranger.get(path)
                is_error(answer, 401, "unauthenticated")
                assert answer.headers["www-authenticate"] == "Bearer"
            is_error(
                await stranger.post("/api/datasources", content=b"{", headers={"Content-Type": "application/json"}), 401
            )
        assert (await desk.get("/ready")).json()["catalogue"] == "ok"

    play(tmp_path, story)


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", 4e9, "4000000000"])
def test_the_end_of_a_token_is_a_moment_that_can_be_reckoned_with(tmp_path: Path, moment: object) -> None:
    """What overflows in another time zone, or might be seconds since whenever, is refused in the caller's words."""

    async def story(desk: Desk) -> None:
        body = {"name": "ci", "role": "viewer", "expires_at": moment}
        is_error(await desk.post("/api/tokens", body), 422, "validation")

    play(tmp_path, story)


def test_names_of_users_are_taken_in_any_case(tmp_path: Path) -> None:
    """As they are kept: in lower case, without what stands around them."""

    async def story(desk: Desk) -> None:
        body = {"name": " Anna ", "password": PASSWORD, "role": "viewer"}
        assert (await desk.made("/api/users", body))["name"] == "anna"
        is_error(await desk.post("/api/users", body | {"name": "ANNA"}), 409, "conflict")

    play(tmp_path, story)


def test_forged_expired_and_revoked_tokens_open_nothing(tmp_path: Path) -> None:
    """A token counts while its row says so, and a revoked one ends with the very next request."""

    async def story(desk: Desk) -> None:
        good = await token(desk, expires_at=desk.here.clock.moment + timedelta(hours=1))
        forged = good[:-1] + ("A" if good[-1] != "A" else "B")
        async with client(desk) as http:
            assert (await http.get("/api/datasources", headers=bearer(good))).status_code == 200
            for wrong in (forged, good[:-1], good.upper(), "", "dgt_", f"{good} x", good.removeprefix("dgt_")):
                is_error(await http.get("/api/datasources", headers=bearer(wrong)), 401)
            for header in (f"Basic {good}", good, f"Bearer{good}", f"Bearer {good}, Bearer {good}"):
                is_error(await http.get("/api/datasources", headers={"Authorization": header}), 401)
            desk.here.clock.advance(hours=1)
            is_error(await http.get("/api/datasources", headers=bearer(good)), 401)
            other = await desk.made("/api/tokens", {"name": "ci", "role": "viewer"})
            assert (await http.get("/api/datasources", headers=bearer(other["token"]))).status_code == 200
            assert (await desk.delete(f"/api/tokens/{other['id']}")).status_code == 204
            is_error(await http.get("/api/datasources", headers=bearer(other["token"])), 401)

    play(tmp_path, story)


def test_two_authorization_headers_are_none(tmp_path: Path) -> None:
    """Whoever smuggles a second header in must not have us take the one that a proxy has not looked at."""

    async def story(desk: Desk) -> None:
        good = f"Bearer {await token(desk)}"
        async with client(desk) as http:
            for pair in ((good, "Bearer x"), ("Bearer x", good), (good, good)):
                headers = [("Authorization", value) for value in pair]
                is_error(await http.get("/api/datasources", headers=headers), 401)

    play(tmp_path, story)


def test_where_a_token_is_sent_a_cookie_does_not_count(tmp_path: Path) -> None:
    """One request is made by one actor: a bad token is not mended by a good cookie."""

    async def story(desk: Desk) -> None:
        await user(desk)
        async with browser(desk) as page:
            assert (await page.sign_in("anna")).status_code == 201
            assert (await page.get("/api/datasources")).status_code == 200
            is_error(await page.get("/api/datasources", headers=bearer("dgt_" + "A" * 43)), 401)

    play(tmp_path, story)


def test_a_session_lives_in_a_cookie_that_scripts_and_other_sites_never_get(tmp_path: Path) -> None:
    """HttpOnly, SameSite=Strict; over TLS also Secure and bound to this very host by its name."""

    async def story(desk: Desk) -> None:
        await user(desk)
        async with browser(desk) as page:
            sent = (await page.sign_in("anna")).headers["set-cookie"]
            assert sent.startswith("dataguardian=")
            assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(re.split("; ", sent))
            assert "Secure" not in sent
            who = (await page.get("/api/session")).json()
            assert (who["name"], who["role"], who["csrf_token"]) == ("anna", "admin", page.csrf)
            assert (await page.send("DELETE", "/api/session")).status_code == 204
            is_error(await page.get("/api/session"), 401)
        async with browser(desk, base_url="https://localhost:8484") as page:
            sent = (await page.sign_in("anna")).headers["set-cookie"]
            assert sent.startswith("__Host-dataguardian=")
            assert "Secure" in sent
            assert "Domain" not in sent
            assert (await page.get("/api/session")).status_code == 200
            secret = page.cookie
        async with client(
            desk, base_url="https://localhost:8484"
        ) as http:  # a cookie that a page over HTTP has planted
            is_error(await http.get("/api/session", headers={"Cookie": f"dataguardian={secret}"}), 401)

    play(tmp_path, story)


def test_a_session_that_was_planted_does_not_become_somebodys(tmp_path: Path) -> None:
    """Signing in gives a new secret whatever cookie came with it, and two cookies of ours are none."""

    async def story(desk: Desk) -> None:
        await user(desk)
        async with browser(desk) as page:
            planted = "A" * 43
            page.http.cookies.set("dataguardian", planted, domain="localhost.local", path="/")
            assert (await page.sign_in("anna")).status_code == 201
            secret = page.cookie
        async with client(desk) as http:
            for cookie in (planted, f"{planted}; dataguardian={secret}", f"{secret}; dataguardian={planted}"):
                is_error(await http.get("/api/session", headers={"Cookie": f"dataguardian={cookie}"}), 401)
            assert (await http.get("/api/session", headers={"Cookie": f"dataguardian={secret}"})).status_code == 200

    play(tmp_path, story)


def test_a_change_by_cookie_proves_that_our_own_page_sends_it(tmp_path: Path) -> None:
    """Neither another site, nor a page that cannot read our answers, nor another session's token changes anything."""

    async def story(desk: Desk) -> None:
        await user(desk)
        body = {"name": "ci", "role": "viewer"}
        async with browser(desk) as page, browser(desk) as other:
            await page.sign_in("anna")
            await other.sign_in("anna")
            refused: list[dict[str, str]] = [
                {"X-CSRF-Token": ""},
                {"X-CSRF-Token": other.csrf},
                {"X-CSRF-Token": page.csrf[:-1]},
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Origin": "http://localhost:8485"},
                {"Sec-Fetch-Site": "cross-site"},
                {"Sec-Fetch-Site": "same-site"},
            ]
            for headers in refused:
                is_error(await page.post("/api/tokens", body, **headers), 403)
            without = await page.http.post("/api/tokens", json=body, headers={"X-CSRF-Token": page.csrf})
            is_error(without, 403, "forbidden")
            assert (await page.post("/api/tokens", body)).status_code == 201
            is_error(await page.get("/api/tokens", headers={"Origin": "https://evil.example"}), 403)

    play(tmp_path, story)


def test_a_sign_in_tells_nobody_what_was_wrong(tmp_path: Path) -> None:
    """An unknown name, a wrong password, a wrong or missing code and a disabled user get the same answer."""

    async def story(desk: Desk) -> None:
        await user(desk)
        await user(desk, "otto", Role.VIEWER, enabled=False)
        secured = await user(desk, "berta", Role.VIEWER)
        secret, _ = await desk.services.users.enrol(secured.id)
        await desk.services.users.confirm(secured.id, code_of(secret, step_at(desk.here.clock.moment)))
        async with browser(desk, "192.0.2.1") as page:
            answers = [
                await page.sign_in("nobody"),
                await page.sign_in("anna", "wrong horse battery"),
                await page.sign_in("otto"),
                await page.sign_in("berta"),
                await page.sign_in("berta", code="000000"),
                await page.sign_in(
                    "berta", "wrong horse battery", code_of(secret, step_at(desk.here.clock.moment) + 1)
                ),
            ]
            assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
            assert not page.http.cookies
            assert "anna" not in answers[0].text

    play(tmp_path, story)


def test_guessing_soon_takes_for_ever_and_locks_nobody_out_at_home(tmp_path: Path) -> None:
    """After a few failures a name must wait, known or not, each time longer; from this machine it still opens."""

    async def story(desk: Desk) -> None:
        await user(desk)
        async with browser(desk, "192.0.2.1") as page, browser(desk) as home, browser(desk, "198.51.100.7") as away:
            for name in ("anna", "nobody"):
                statuses = [(await page.sign_in(name, "wrong horse battery")).status_code for _ in range(6)]
                assert statuses == [401] * 5 + [429], name
            refused = await away.sign_in("anna")
            is_error(refused, 429, "too_many_attempts")
            assert int(refused.headers["retry-after"]) == refused.json()["details"]["retry_after_seconds"] > 0
            assert (await home.sign_in("anna")).status_code == 201
            assert (await away.sign_in("anna")).status_code == 429
            desk.here.clock.advance(minutes=15)
            assert (await away.sign_in("anna")).status_code == 201

    play(tmp_path, story)


def test_of_two_strangers_who_claim_a_new_service_at_once_one_wins(tmp_path: Path) -> None:
    """The setup token makes one administrator, once; nobody without it makes any."""

    async def story(desk: Desk) -> None:
        secret = await desk.services.setup.issue()
        async with client(desk, "192.0.2.1") as http:
            assert (await http.get("/api/setup")).json() == {"needed": True}
            body = {"token": "setup_" + "A" * 43, "name": "eve", "password": PASSWORD}
            is_error(await http.post("/api/setup", json=body), 401)
            claims = [
                http.post("/api/setup", json=body | {"token": secret, "name": name}) for name in ("anna", "eve", "bob")
            ]
            statuses = sorted(answer.status_code for answer in await asyncio.gather(*claims))
            assert statuses == [201, 409, 409]
            assert (await http.get("/api/setup")).json() == {"needed": False}
            is_error(await http.post("/api/setup", json=body | {"token": secret, "name": "late"}), 409)
        users = (await desk.get("/api/users")).json()["data"]
        assert [row["role"] for row in users] == ["admin"]
        assert await desk.services.setup.issue() is None

    play(tmp_path, story)


def test_a_code_opens_once_and_so_does_a_recovery_code(tmp_path: Path) -> None:
    """Whoever looks over a shoulder, or has a list of spent codes, does not get in."""

    async def story(desk: Desk) -> None:
        await user(desk)
        async with browser(desk) as page, browser(desk) as thief:
            await page.sign_in("anna")
            is_error(await page.post("/api/account/second-factor", {"password": "not it, sorry"}), 403)
            enrolled = (await page.post("/api/account/second-factor", {"password": PASSWORD})).json()
            assert enrolled["secret"] in enrolled["uri"]
            step = step_at(desk.here.clock.moment)
            is_error(await page.post("/api/account/second-factor/confirm", {"code": "000000"}), 422)
            code = code_of(enrolled["secret"], step)
            codes = (await page.post("/api/account/second-factor/confirm", {"code": code})).json()["recovery_codes"]
            assert len(set(codes)) == 10
            assert (await thief.sign_in("anna", code=code)).status_code == 401
            desk.here.clock.advance(seconds=30)
            code = code_of(enrolled["secret"], step + 1)
            both = await asyncio.gather(page.sign_in("anna", code=code), thief.sign_in("anna", code=code))
            assert sorted(answer.status_code for answer in both) == [201, 401]
            assert (await page.sign_in("anna", code=codes[0].upper())).status_code == 201
            assert (await thief.sign_in("anna", code=codes[0])).status_code == 401
            stored = await desk.services.users.page(1, 10)
            assert enrolled["secret"] not in str(vars(stored.data[0]))
            assert len(stored.data[0].recovery_codes) == 9
            assert (await page.post("/api/account/second-factor/disable", {"password": PASSWORD})).status_code == 200
            assert (await thief.sign_in("anna")).status_code == 201

    play(tmp_path, story)


def test_what_takes_power_away_ends_sessions_at_once(tmp_path: Path) -> None:
    """Another role, a new password, disabling and removal are felt by the next request."""

    async def story(desk: Desk) -> None:
        anna = await user(desk)
        otto = await user(desk, "otto", Role.OPERATOR)
        path = f"/api/users/{otto.id}"
        ways: list[tuple[str, str, Any]] = [
            ("PUT", path, {"role": "viewer"}),
            ("POST", f"{path}/password", {"password": PASSWORD}),
            ("DELETE", f"{path}/sign-ins", None),
            ("PUT", path, {"enabled": False}),
            ("PUT", path, {"enabled": True}),
            ("DELETE", path, None),
        ]
        async with browser(desk) as admin, browser(desk) as page:
            await admin.sign_in(anna.name)
            for method, target, body in ways:
                signed_in = (await page.sign_in("otto")).status_code == 201
                assert signed_in or body == {"enabled": True}
                assert (await page.get("/api/session")).status_code == (200 if signed_in else 401)
                assert (await admin.send(method, target, body)).status_code in {200, 204}
                is_error(await page.get("/api/session"), 401)

    play(tmp_path, story)


def test_the_last_administrator_stays(tmp_path: Path) -> None:
    """Neither removed, nor demoted, nor disabled, even when two administrators do it to each other at once."""

    async def story(desk: Desk) -> None:
        anna = await user(desk)
        for method, body in (("PUT", {"role": "viewer"}), ("PUT", {"enabled": False}), ("DELETE", None)):
            answer = await desk.http.request(method, f"/api/users/{anna.id}", **({"json": body} if body else {}))
            is_error(answer, 409, "conflict")
        otto = await user(desk, "otto")
        both = [desk.put(f"/api/users/{row.id}", {"role": "viewer"}) for row in (anna, otto)]
        assert sorted(answer.status_code for answer in await asyncio.gather(*both)) == [200, 409]

    play(tmp_path, story)


def test_a_token_never_does_more_than_its_owner(tmp_path: Path) -> None:
    """Not when it is made, not later when the owner has lost the role, and not when the owner is gone."""

    async def story(desk: Desk) -> None:
        await user(desk)
        otto = await user(desk, "otto", Role.OPERATOR)
        async with browser(desk) as page, client(desk) as http:
            await page.sign_in("otto")
            is_error(await page.post("/api/tokens", {"name": "x", "role": "admin"}), 403)
            made = (await page.post("/api/tokens", {"name": "x", "role": "operator"})).json()
            headers = bearer(made["token"])
            is_error(await http.post("/api/tokens", json={"name": "y", "role": "viewer"}, headers=headers), 403)
            assert set((await http.get("/api/session", headers=headers)).json()["permissions"]) == {
                "view",
                "run",
                "restore",
            }
            assert (await http.post("/api/system/scrub", headers=headers)).status_code == 202
            await desk.put(f"/api/users/{otto.id}", {"role": "viewer"})
            is_error(await http.post("/api/system/scrub", headers=headers), 403)
            await desk.put(f"/api/users/{otto.id}", {"enabled": False})
            is_error(await http.get("/api/session", headers=headers), 401)
            await desk.put(f"/api/users/{otto.id}", {"enabled": True})
            assert (await http.get("/api/session", headers=headers)).status_code == 200
            await desk.delete(f"/api/users/{otto.id}")
            is_error(await http.get("/api/session", headers=headers), 401)

    play(tmp_path, story)


def test_a_scope_narrows_a_role(tmp_path: Path) -> None:
    """A token that only runs backups neither restores nor changes anything."""

    async def story(desk: Desk) -> None:
        secret = await token(desk, permissions={Permission.VIEW, Permission.RUN})
        async with client(desk, **bearer(secret)) as http:
            assert (await http.post("/api/system/scrub")).status_code == 202
            is_error(await http.post("/api/datasources", json={}), 403)
            is_error(await http.get("/api/users"), 403)

    play(tmp_path, story)


def test_users_see_and_end_their_own_tokens_and_no_others(tmp_path: Path) -> None:
    """What belongs to somebody else is not there."""

    async def story(desk: Desk) -> None:
        await user(desk)
        await user(desk, "otto", Role.VIEWER)
        theirs = await desk.made("/api/tokens", {"name": "console", "role": "viewer"})
        async with browser(desk) as page:
            await page.sign_in("otto")
            made = (await page.post("/api/tokens", {"name": "mine", "role": "viewer"})).json()
            listed = (await page.get("/api/tokens")).json()["data"]
            assert [row["name"] for row in listed] == ["mine"]
            assert "token" not in listed[0]
            is_error(await page.send("DELETE", f"/api/tokens/{theirs['id']}"), 404)
            assert (await page.send("DELETE", f"/api/tokens/{made['id']}")).status_code == 204
        names = {row["name"] for row in (await desk.get("/api/tokens")).json()["data"]}
        assert {"mine", "console"} <= names

    play(tmp_path, story)


def test_a_stream_ends_with_the_right_to_see_it(tmp_path: Path) -> None:
    """Who follows a backup when the token is revoked, or the session is ended, sees nothing more of it."""

    async def story(desk: Desk) -> None:
        anna = await user(desk)
        job = await desk.job()
        started = (await desk.post(f"/api/backup-jobs/{job['id']}/run")).json()["execution_id"]
        made = await desk.made("/api/tokens", {"name": "ci", "role": "viewer"})
        async with browser(desk) as page, desk.served() as url, httpx.AsyncClient(timeout=30) as http:
            await page.sign_in("anna")
            for headers, ending in (
                (bearer(made["token"]), f"/api/tokens/{made['id']}"),
                ({"Cookie": f"dataguardian={page.cookie}"}, f"/api/users/{anna.id}/sign-ins"),
            ):
                async with http.stream("GET", f"{url}/api/executions/{started}/events", headers=headers) as stream:
                    assert stream.status_code == 200
                    lines = stream.aiter_lines()
                    while (await anext(lines)) != "event: state":
                        pass
                    assert (await desk.delete(ending)).status_code in {200, 204}
                    desk.here.clock.advance(seconds=5)
                    assert "event: end" not in [line async for line in lines]

    play(tmp_path, story)


def test_an_own_account_is_looked_after_with_the_password(tmp_path: Path) -> None:
    """Another password takes the one until now, ends every session, and begins a new one for whoever asked."""

    async def story(desk: Desk) -> None:
        await user(desk)
        async with browser(desk) as page, browser(desk) as other, client(desk, **bearer(await token(desk))) as http:
            await page.sign_in("anna")
            await other.sign_in("anna")
            body = {"current_password": "not it, sorry", "password": "another four words"}
            is_error(await page.post("/api/account/password", body), 403, "forbidden")
            is_error(
                await page.post("/api/account/password", body | {"current_password": PASSWORD, "password": "x"}), 422
            )
            is_error(await http.post("/api/account/password", json=body), 403, "forbidden")
            assert len((await page.get("/api/account/sign-ins")).json()["data"]) == 2
            changed = await page.post("/api/account/password", body | {"current_password": PASSWORD})
            page.csrf = changed.json()["csrf_token"]
            is_error(await other.get("/api/session"), 401)
            assert (await other.sign_in("anna")).status_code == 401
            assert (await other.sign_in("anna", "another four words")).status_code == 201
            listed = (await page.get("/api/account/sign-ins")).json()["data"]
            assert (await page.send("DELETE", f"/api/account/sign-ins/{listed[0]['id']}")).status_code == 204
            statuses = [(await some.get("/api/session")).status_code for some in (page, other)]
            assert sorted(statuses) == [200, 401]

    play(tmp_path, story)


def test_nobody_collects_sessions_or_tokens_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest session goes when there are too many; a token too many is refused until one is revoked."""
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 2)
    monkeypatch.setattr(tokens, "MOST_TOKENS", 2)

    async def story(desk: Desk) -> None:
        await user(desk)
        async with browser(desk) as first, browser(desk) as second, browser(desk) as third:
            for page in (first, second, third):
                desk.here.clock.advance(seconds=5)
                await page.sign_in("anna")
            answers = [(await page.get("/api/session")).status_code for page in (first, second, third)]
            assert answers == [401, 200, 200]
            made = [await third.post("/api/tokens", {"name": name, "role": "viewer"}) for name in ("a", "b", "c")]
            assert [answer.status_code for answer in made] == [201, 201, 409]
            assert (await third.send("DELETE", f"/api/tokens/{made[0].json()['id']}")).status_code == 204
            assert (await third.post("/api/tokens", {"name": "c", "role": "viewer"})).status_code == 201

    play(tmp_path, story)
