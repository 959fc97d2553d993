"""With pytest-playwright-asyncio: `gateway.aio` waits without holding up the event loop that drives the browser."""

import pytest
from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_purchase_is_tracked(page: Page, shop: str, gateway) -> None:
    await page.goto(f"{shop}/checkout")
    await page.get_by_role("button", name="Pay").click()
    purchase = await gateway.aio.expect_event("Purchased", {"total": 12}, page="/checkout")
    assert purchase["data"]["currency"] == "EUR"


async def test_waiting_leaves_routes_alone(page: Page, shop: str, gateway) -> None:
    """A route is answered by the test's own event loop, which a helper that blocks it would hold up."""
    await page.route("**/login", lambda route: route.continue_())
    await page.goto(shop)
    await page.evaluate("document.querySelector('[href=\"/login\"]').click()")
    await gateway.aio.expect_event("Viewed product")
    await page.get_by_role("button", name="Log in").click()
    await gateway.aio.expect_person("42", {"email": "jo@x.io"}, devices=1)
