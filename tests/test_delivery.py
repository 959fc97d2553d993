"""The feed sent to webhooks and NATS: signed, in order, nothing lost when either side is killed."""

import asyncio
import json
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest
from nats.js.errors import NotFoundError
from standardwebhooks import Webhook as Verifier
from typer.testing import CliRunner

from gateway import delivery
from gateway.cli import app
from gateway.delivery import Deliverer
from gateway.errors import Unavailable
from gateway.identity.requests import Batch, Track
from gateway.model import now
from gateway.store.receivers import Receivers
from tests.driver import Driver, driving
from tests.receivers import NatsServer, Webhook
from tests.server import GatewayServer, wait_for


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with Webhook() as webhook:
        yield webhook


@pytest.fixture
async def shop(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Driver]:
    """A gateway that delivers, and does not wait long before it tries again."""
    monkeypatch.setattr(delivery, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(delivery, "LOOK_AGAIN", 0.02)
    monkeypatch.setattr(delivery, "NOBODY", 0.02)
    async with driving(database) as driver:
        task = asyncio.create_task(Deliverer(driver.gateway).run())
        yield driver
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def viewed(driver: Driver, *names: str) -> None:
    device = driver.gateway.new_id()
    for name in names:
        commands = [Track(name, now(), "", name="Viewed")]
        await driver.gateway.writer.commands(Batch(driver.site, device, commands, now()))


async def until(check: Any, seconds: float = 10) -> Any:
    """What `check` answers, once it is true."""
    async with asyncio.timeout(seconds):
        while True:
            answer = check()
            answer = await answer if asyncio.iscoroutine(answer) else answer
            if answer:
                return answer
            await asyncio.sleep(0.02)


async def add(driver: Driver, url: str, **options: Any) -> dict[str, Any]:
    answer = await driver.api("POST", "/v1/receivers", {"url": url} | options)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def shown(driver: Driver) -> dict[str, Any]:
    (receiver,) = (await driver.api("GET", "/v1/receivers")).json()["receivers"]
    return dict(receiver)


def messages(hook: Webhook) -> list[str]:
    return [e["event"]["message_id"] for e in hook.entries() if e["type"] == "event"]


async def test_a_webhook_is_sent_signed_entries_in_order(shop: Driver, hook: Webhook) -> None:
    await viewed(shop, "before")
    made = await add(shop, hook.url)
    await viewed(shop, *(f"m{n}" for n in range(10)))
    await until(lambda: len(messages(hook)) >= 10)
    assert messages(hook) == [f"m{n}" for n in range(10)]
    for headers, body in hook.requests:
        assert Verifier(made["secret"]).verify(body, headers)["entries"]
        with pytest.raises(Exception, match="signature"):
            Verifier(made["secret"]).verify(body + b" ", headers)
    receiver = await until(lambda: _up_to_date(shop))
    assert (receiver["error"], receiver["attempts"]) == (None, 0)
    assert receiver["delivered_at"] >= receiver["created_at"]
    assert "secret" not in receiver


async def _up_to_date(driver: Driver) -> dict[str, Any] | None:
    receiver = await shown(driver)
    behind = (await driver.api("GET", f"/v1/feed?after={receiver['after']}")).json()["entries"]
    return None if behind else receiver


async def test_what_was_refused_is_sent_again_as_it_was(shop: Driver, hook: Webhook) -> None:
    hook.refuse = 3
    await add(shop, hook.url, oldest=True)
    await viewed(shop, "a")
    await until(lambda: len(hook.requests) >= 2)
    await viewed(shop, "b")
    await until(lambda: messages(hook)[-1:] == ["b"])
    assert messages(hook) == ["a"] * 4 + ["b"]
    assert len({headers["webhook-id"] for headers, _ in hook.requests}) == 2
    assert len({body for _, body in hook.requests[:4]}) == 1


async def test_a_redirect_is_a_refusal_and_never_followed(shop: Driver, hook: Webhook) -> None:
    with Webhook() as stranger:
        hook.elsewhere, hook.refuse = stranger.url, 2
        await add(shop, hook.url)
        await viewed(shop, "a")
        await until(lambda: len(hook.requests) >= 3)
        assert stranger.requests == []
    assert messages(hook) == ["a"] * 3


async def test_one_large_commit_goes_out_in_parts(shop: Driver, hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BATCH", 3)
    hook.refuse = 1
    await add(shop, hook.url)
    names = [f"m{n}" for n in range(8)]
    commands = [Track(name, now(), "", name="Viewed") for name in names]
    await shop.gateway.writer.commands(Batch(shop.site, shop.gateway.new_id(), commands, now()))
    await until(lambda: messages(hook)[-1:] == ["m7"])
    assert messages(hook) == names[:3] + names
    assert [len(json.loads(body)["entries"]) for _, body in hook.requests] == [3, 3, 3, 2]


async def test_after_the_last_attempt_it_is_a_dead_letter_that_can_be_sent_again(shop: Driver, hook: Webhook) -> None:
    hook.refuse = 2
    made = await add(shop, hook.url, max_attempts=2)
    await viewed(shop, "a")
    await until(lambda: hook.refuse == 0)
    await viewed(shop, "b")
    await until(lambda: messages(hook)[-1:] == ["b"])
    path = f"/v1/receivers/{made['receiver_id']}"
    (dead,) = (await shop.api("GET", f"{path}/dead-letters")).json()["dead_letters"]
    assert (dead["attempts"], dead["error"], dead["again"]) == (2, "the answer was 500", False)
    entries = (await shop.api("GET", f"/v1/feed?after={dead['after']}&limit=1")).json()["entries"]
    assert entries[0]["event"]["message_id"] == "a"
    assert (await shop.api("POST", f"{path}/redeliver", {"after": "99-9"})).status_code == 404
    assert (await shop.api("POST", f"{path}/redeliver", {"after": dead["after"]})).json() == {"dead_letters": 1}
    await until(lambda: messages(hook)[-1:] == ["a"])
    receivers = Receivers(shop.gateway.store)
    await until(lambda: _is_empty(receivers.dead(shop.site.site_id, int(made["receiver_id"]))))
    assert hook.requests[-1][0]["webhook-id"] == hook.requests[0][0]["webhook-id"]
    assert (await shop.api("DELETE", path)).status_code == 200
    assert (await shop.api("GET", "/v1/receivers")).json()["receivers"] == []


async def _is_empty(rows: Any) -> bool:
    return not await rows


async def test_two_processes_send_once(shop: Driver, hook: Webhook) -> None:
    other = asyncio.create_task(Deliverer(shop.gateway).run())
    await add(shop, hook.url)
    names = [f"m{n}" for n in range(30)]
    await viewed(shop, *names)
    await until(lambda: len(messages(hook)) >= 30)
    assert messages(hook) == names
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"url": "ftp://x"}, "https://"),
        ({"url": "https://"}, "https://"),
        ({"url": "http://[x"}, "https://"),
        ({"url": "nats://x:99999"}, "nats://"),
        ({"url": "https://x", "secret": "abc"}, "whsec_"),
        ({"url": "nats://x", "subject": "a b"}, "shop.events"),
    ],
)
async def test_what_cannot_be_sent_to_is_refused(body: dict[str, str], named: str, tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        answer = await driver.api("POST", "/v1/receivers", body)
        assert answer.status_code == 400
        assert named in answer.json()["error"]["hint"]


def test_a_gateway_killed_while_it_sends_loses_nothing(tmp_path: Path, hook: Webhook) -> None:
    with GatewayServer(tmp_path) as server:
        site = server.site("shop")
        receiver = server.api(site).post("/v1/receivers", json={"url": hook.url}).json()["receiver_id"]
        hook.before = threading.Event()

        def push(*names: str) -> None:
            commands = [{"id": n, "command": ["track", "Viewed"]} for n in names]
            body = {"key": site["api_key"], "commands": commands}
            httpx.post(f"{server.url}/v1/commands", json=body, trust_env=False).raise_for_status()

        push("a", "b")
        wait_for(lambda: hook.requests, message="the first delivery")
        server.kill()
        hook.before.set()
        first = list(hook.requests)
        server.start()
        push("c")
        with sqlite3.connect(tmp_path / "gateway.db") as database:  # as if the dead process's lease were over
            database.execute("update receivers set held_until = 0")
        wait_for(lambda: messages(hook)[-1:] == ["c"])
        assert messages(hook) == ["a", "b", "a", "b", "c"]
        again = hook.requests[1]
        assert (again[0]["webhook-id"], again[1]) == (first[0][0]["webhook-id"], first[0][1])
        assert "It took everything" in server.command("receiver", "dead", "shop", receiver).stdout


def test_a_process_of_its_own_sends_when_the_gateway_is_not_to(tmp_path: Path, hook: Webhook) -> None:
    with GatewayServer(tmp_path, environment={"GATEWAY_DELIVER": "off"}) as server:
        site = server.site("shop")
        server.api(site).post("/v1/receivers", json={"url": hook.url}).raise_for_status()
        body = {"key": site["api_key"], "commands": [{"id": "a", "command": ["track", "Viewed"]}]}
        httpx.post(f"{server.url}/v1/commands", json=body, trust_env=False).raise_for_status()
        command = [server.python, "-m", "gateway", "deliver"]
        with subprocess.Popen(command, cwd=tmp_path, env=server._environment, stdin=subprocess.DEVNULL) as sender:
            assert messages(hook) == []
            wait_for(lambda: messages(hook) == ["a"], timeout=30)
            sender.terminate()
            assert sender.wait(20) == 0


def test_receivers_on_the_command_line(tmp_path: Path) -> None:
    def command(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--database", f"sqlite:///{tmp_path / 'gateway.db'}"])
        assert done.exit_code == 0, done.output
        return done.output

    command("site", "create", "shop")
    made = json.loads(command("receiver", "add", "shop", "nats://me:word@nats.example", "--subject", "a.b", "--json"))
    assert made["secret"].startswith("whsec_")
    (listed,) = json.loads(command("receiver", "list", "shop", "--json"))
    assert (listed["url"], listed["subject"]) == ("nats://nats.example", "a.b")
    assert "nats.example" in command("receiver", "list", "shop").replace("\n", "")
    assert command("receiver", "dead", "shop", made["receiver_id"], "--redeliver") == "It took everything.\n"
    command("receiver", "remove", "shop", made["receiver_id"])
    assert "No receiver yet" in command("receiver", "list", "shop")


# --- NATS -------------------------------------------------------------------------------------------------------------


async def streamed(url: str, subject: str, number: int) -> list[dict[str, Any]]:
    """What a stream holds, once it is so many messages."""
    client = await nats.connect(url)
    await until(lambda: _takes(client, f"{subject}.event"))
    subscription = await client.jetstream().subscribe(f"{subject}.*", ordered_consumer=True)
    found = [await subscription.next_msg(timeout=20) for _ in range(number)]
    await client.close()
    for message in found:
        entry = json.loads(message.data)
        assert message.headers is not None and message.headers["Nats-Msg-Id"] == entry["id"]
        assert message.subject == f"{subject}.{entry['type']}"
    return [json.loads(m.data) for m in found]


async def _takes(client: Any, subject: str) -> str | None:
    """The stream that takes a subject, once there is one."""
    try:
        return str(await client.jetstream().find_stream_name_by_subject(subject))
    except NotFoundError:
        return None


async def test_jetstream_holds_every_entry_once_although_both_sides_were_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LOOK_AGAIN", 0.02)
    monkeypatch.setattr(delivery, "AWAY", 0.1)
    with NatsServer() as server:
        async with driving(tmp_path) as driver:
            await add(driver, server.url, subject="shop.feed")
            deliverer = asyncio.create_task(Deliverer(driver.gateway).run())
            await viewed(driver, *(f"m{n}" for n in range(5)))
            await streamed(server.url, "shop.feed", 5)
            await asyncio.to_thread(server.kill)
            await viewed(driver, *(f"m{n}" for n in range(5, 10)))
            await until(lambda: _error(driver))
            deliverer.cancel()
            await asyncio.gather(deliverer, return_exceptions=True)
            await asyncio.to_thread(server.start)
            # As after a crash between the acknowledgement and writing it down: what was sent is sent once more.
            back = "update receivers set position = 0, entries = 0, until_position = null, held_until = 0, retry_at = 0"
            await driver.gateway.store.run(lambda tx: tx.execute(back))
            deliverer = asyncio.create_task(Deliverer(driver.gateway).run())
            await driver.run([["login", {"device": "d1", "identity": "alice", "proof": "claimed"}]])
            entries = await streamed(server.url, "shop.feed", 11)
            assert [e["event"]["message_id"] for e in entries[:10]] == [f"m{n}" for n in range(10)]
            assert entries[10]["fact"]["kind"] == "login"
            client = await nats.connect(server.url)
            (info,) = await client.jetstream().streams_info()
            assert info.state.messages == 11
            await client.close()
            deliverer.cancel()
            await asyncio.gather(deliverer, return_exceptions=True)


async def _error(driver: Driver) -> str | None:
    error = (await shown(driver))["error"]
    return str(error) if error else None


@pytest.mark.parametrize("error", [Unavailable("the disk is full"), ZeroDivisionError()])
async def test_the_feed_is_shortened_again_after_it_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(delivery, "PRUNE_EVERY", 0.01)
    asked = asyncio.Semaphore(0)

    async def prune(*given: Any) -> None:
        asked.release()
        raise error

    monkeypatch.setattr(delivery, "prune", prune)
    async with driving(tmp_path) as driver, delivery.delivering(driver.gateway, deliver=False):
        for _ in range(3):
            await asyncio.wait_for(asked.acquire(), 10)
