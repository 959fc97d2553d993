"""Coverage-guided bytes for the decoding of bodies: `python tests/fuzz_decode.py FOLDER -max_total_time=60`.

A body is refused or its entries are parsed or skipped; anything else is a bug. test_hostile.py runs it.
"""

import json
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gateway"]):
    from gateway.commands import Parser, decode_body, storable
    from gateway.cookies import read_cookies
    from gateway.errors import GatewayError
    from gateway.identity.requests import Track
    from gateway.model import Site
    from gateway.signing import Signer

SITE = Site(7, "shop", "k" * 40, ["s" * 64], {"link_param": "vero_id"})
SIGNER = Signer(["k" * 64])
SEEDS: tuple[list[object], ...] = (
    ["track", "Bought", {"total": 12, "items": [{"sku": "\u00e9"}]}, {"source": "x"}],
    ["trackPageview", {"a": 1}],
    ["user", {"id": "42", "email": "jo@x.io", "plan": None}, {"set_once": True}],
    ["reidentify", "new", "old"],
    ["tags", {"add": ["vip"], "remove": ["new"]}],
    ["unsubscribe", {"id": "jo@x.io"}],
    ["link", "vq1_abc.def.ghi"],
    ["verify", "e30.e30.x"],
    ["context", {"language": "de", "screen": "1x1"}],
    ["consent", "granted"],
)


def one_input(data: bytes) -> None:
    read_cookies(data.decode("latin-1"), "vq_dev")
    try:
        body = decode_body(data)
    except GatewayError:
        return
    for server in (False, True):
        parser = Parser(SITE, SIGNER, server=server)
        for raw in body.commands:
            for command in (parser.entry(raw) or (None, []))[1]:
                assert command.op_id.isprintable()
                if isinstance(command, Track):
                    assert storable(json.loads(command.data)) and storable(command.name)


def main() -> None:
    corpus = Path(sys.argv[1])
    for n, command in enumerate(SEEDS):
        entry = {"id": f"m{n}", "at": 1e12, "command": command, "page": {"url": "https://x/"}}
        (corpus / f"seed-{n}").write_text(json.dumps({"key": "k" * 40, "sent_at": 1e12, "commands": [entry]}))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
