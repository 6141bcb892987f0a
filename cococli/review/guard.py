"""Protection of the review server from other web sites: its token, local hosts, and a Content-Security-Policy."""

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",  # unless a response says something else
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Passes on only requests of the page: with its token in the path, to this host, from this origin.

    A page of another site knows no token. One whose name was made to lead here, by DNS rebinding, has another Host.

    Attributes:
        invitation: A path that leads to the page once. A browser is started with it, as every user of the machine can
            see the arguments of programs.
    """

    invitation = ""

    def __init__(self, app: "ASGIApp", token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{name}:{port}".encode() for name in (HOST, "localhost")}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def guarded(message: "Message") -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in given)]
            await send(message)

        from starlette.responses import PlainTextResponse, RedirectResponse

        token = scope["path"].split("/")[1]
        answer: ASGIApp = PlainTextResponse("forbidden: open the address that coca printed", 403)
        if self._is_ours(scope) and _same(token, self.token):
            answer = self.app
        elif self._is_ours(scope) and self.invitation and _same(token, self.invitation):
            self.invitation = ""
            answer = RedirectResponse(f"/{self.token}/", 303)
        await answer(scope, receive, guarded)

    def _is_ours(self, scope: "Scope") -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        return len(hosts) == 1 and hosts[0] in self.hosts and all(one == b"http://" + hosts[0] for one in origins)


def _same(token: str, expected: str) -> bool:
    return secrets.compare_digest(token.encode(), expected.encode())
