"""SuprSend's own Node client, changed in nothing but the base URL."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.programs import required
from tests.server import GatewayServer, Site, api_answer

CLIENTS = Path(__file__).parent / "clients"
Json = dict[str, Any]


def run(server: GatewayServer, site: Site, *steps: tuple[str, Any], secret: str = "") -> list[Json]:
    """The client's answers to calls made in one process."""
    asked = {"base_url": server.url, "key": site["api_key"], "secret": secret or site["secret_key"], "steps": steps}
    command = [required("node"), CLIENTS / "suprsend.mjs"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers: list[Json] = json.loads(done.stdout)
    return answers


def test_a_user_from_first_to_last(gateway_server: GatewayServer) -> None:
    site = gateway_server.site()
    alice = "alice/é@ x"
    changes = [
        ["add_email", "a@shop.example"],
        ["set", "name", "Ålice"],
        ["increment", "logins", 2],
        ["unset", ["$sms"]],
    ]
    made, edited, _, merged, gone, listed, deleted, bulk_deleted, empty = run(
        gateway_server,
        site,
        ("call", ["upsert", alice, {"$sms": ["+491701234567"], "name": "Al"}]),
        ("edit", [alice, changes]),
        ("call", ["upsert", "visitor-1", {"plan": "pro"}]),
        ("call", ["merge", alice, "visitor-1"]),
        ("call", ["get", "visitor-1"]),
        ("call", ["list", {"limit": 5}]),
        ("call", ["delete", alice]),
        ("call", ["bulk_delete", {"distinct_ids": [alice, "nobody"]}]),
        ("call", ["list"]),
    )
    assert made["answer"]["$sms"][0]["value"] == "+491701234567"
    assert edited["answer"]["properties"] == {"logins": 2, "name": "Ålice"}
    assert (edited["answer"]["$email"][0]["value"], "$sms" in edited["answer"]) == ("a@shop.example", False)
    assert merged["answer"]["properties"] == {"logins": 2, "name": "Ålice", "plan": "pro"}
    assert gone["message"] == "404: user [distinct_id: 'visitor-1'] not found"
    assert [u["distinct_id"] for u in listed["answer"]["results"]] == [alice]
    assert [a["answer"]["status_code"] for a in (deleted, bulk_deleted)] == [204, 204]
    assert empty["answer"]["meta"]["count"] == 0


def test_events_and_edits_in_the_background(gateway_server: GatewayServer) -> None:
    site = gateway_server.site()
    answers = run(
        gateway_server,
        site,
        ("track", ["alice", "Bought", {"total": 12.5}, {"idempotency_key": "order-1"}]),
        ("track", ["alice", "Bought", {"total": 12.5}, {"idempotency_key": "order-1"}]),
        ("track", ["alice", "Viewed", {"page": "/größe"}]),
        ("bulk_track", [["bob", "Opened", {"n": n}] for n in range(150)]),
        ("async_edit", ["alice", [["add_sms", "+491701234567"]]]),
        ("bulk_edit", [[f"user-{n}", [["set", "n", n]]] for n in range(3)]),
    )
    assert [a["answer"]["status_code"] for a in answers[:3]] == [202, 202, 202]
    assert (answers[3]["answer"]["success"], answers[3]["answer"]["status"]) == (150, "success")
    assert (answers[4]["answer"]["message"], answers[5]["answer"]["success"]) == ("OK", 3)
    api = gateway_server.api(site)
    counts = {
        name: api_answer(api.get("/v1/profiles", params={"identity": name}))["events"] for name in ("alice", "bob")
    }
    assert counts == {"alice": 2, "bob": 150}
    shown = run(gateway_server, site, ("call", ["get", "alice"]), ("call", ["get", "user-2"]))
    assert shown[0]["answer"]["$sms"][0]["value"] == "+491701234567"
    assert shown[1]["answer"]["properties"] == {"n": 2}


def test_a_wrong_secret_is_refused(gateway_server: GatewayServer) -> None:
    refused, untracked = run(
        gateway_server,
        gateway_server.site(),
        ("call", ["upsert", "alice", {}]),
        ("track", ["alice", "Bought", {}]),
        secret="wrong",
    )
    assert refused["message"] == "401: the signature does not match"
    assert (untracked["answer"]["success"], untracked["answer"]["status_code"]) == (False, 401)
