"""Who sends too fast is refused before any call is reached, and still in the words of the API that was asked."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import make_app, opened
from gateway.settings import load


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v2/users/track", {"status": 429, "message": "{message}: {hint}"}),
        ("/1/upload", {"status": "fail", "code": 429, "error": "{message}: {hint}"}),
        ("/v1/user/42/", {"type": "TooManyRequests", "message": "{message}", "status": "error", "records": []}),
        ("/v2/bulk/event/", {"type": "TooManyRequests", "message": "{message}", "status": "error", "records": []}),
        ("/v1/merges", {"error": {"code": "too_many_requests", "message": "{message}", "hint": "{hint}"}}),
    ],
)
async def test_a_refusal_for_speed_has_the_shape_of_its_path(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    message = "this network sends more than 0.05 commands a second"
    said = {"{message}": message, "{hint}": "wait as long as Retry-After says"}
    said["{message}: {hint}"] = f"{message}: {said['{hint}']}"

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        return said.get(value, value) if isinstance(value, str) else value

    async with opened(load({}, database=f"sqlite:///{tmp_path / 'gateway.db'}", rate_address=0.05)) as gateway:
        transport = httpx.ASGITransport(app=make_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
            *taken, refused = [await client.post(path, json={}) for _ in range(3)]
        assert 429 not in [answer.status_code for answer in taken]
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "40")
        answer = refused.json()
        assert {k: answer[k] for k in body} == filled(body)
        assert gateway.writer.tally.refused["too_many_requests"] == 1
