"""With Flask: the app of the test in a thread, configured with the snippet of the test's gateway."""

import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page
from shop import create_app
from werkzeug.serving import make_server


@pytest.fixture
def shop_url(gateway) -> Iterator[str]:
    app = create_app()
    app.config["SNIPPET"] = gateway.snippet_html()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_search_is_tracked(page: Page, shop_url: str, gateway) -> None:
    page.goto(f"{shop_url}/search?q=red+shoes")
    gateway.expect_event("Searched", {"words": "red shoes"}, page="/search")
    gateway.expect_no_errors()
