"""`transformers serve`, with the last line that strict clients of streams wait for.

A program of its own, run by its path: it imports nothing of this package.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

_STREAMED = ("/v1/chat/completions", "/v1/completions")
_DONE = b"data: [DONE]\n\n"

_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


class EndStreams:
    """Ends every stream of chat completions with `data: [DONE]`, where the application does not.

    An ASGI application around another: OpenAI's interface ends its streams so, and clients that
    hold to it take a stream without that line for one that broke.
    """

    def __init__(self, app: Callable[[dict[str, Any], _Receive, _Send], Awaitable[None]]) -> None:
        """Wrap an application.

        Args:
            app: Any ASGI application.
        """
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] not in _STREAMED:
            await self._app(scope, receive, send)
            return
        streams, end = False, b""  # what came last, as far as it matters

        async def pass_on(message: dict[str, Any]) -> None:
            nonlocal streams, end
            if message["type"] == "http.response.start":
                headers = dict(message.get("headers", ()))
                kind = headers.get(b"content-type", b"")
                streams = message["status"] == 200 and kind.startswith(b"text/event-stream")
            elif streams and message["type"] == "http.response.body":
                body = message.get("body", b"")
                end = (end + body)[-len(_DONE) - 4 :]
                if not message.get("more_body", False) and b"[DONE]" not in end:
                    message = {**message, "body": body + _DONE}
            await send(message)

        await self._app(scope, receive, pass_on)


def main() -> None:
    """Run the program `transformers` with the arguments of this process."""
    from transformers.cli import transformers
    from transformers.cli.serving import server

    program: Any = transformers
    build = server.build_server

    def build_server(*args: Any, **kwargs: Any) -> Any:
        app = build(*args, **kwargs)
        app.add_middleware(EndStreams)
        return app

    server.build_server = build_server
    program.main()


if __name__ == "__main__":
    main()
