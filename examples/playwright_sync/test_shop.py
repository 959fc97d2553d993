"""With pytest-playwright: the fixtures `page` and `gateway` in one test, nothing else to set up."""

from playwright.sync_api import Browser, Page


def test_a_purchase_is_tracked(page: Page, shop: str, gateway) -> None:
    page.goto(f"{shop}/checkout")
    page.get_by_role("button", name="Pay").click()
    purchase = gateway.expect_event("Purchased", {"total": 12}, page="/checkout")
    assert purchase["data"]["currency"] == "EUR"


def test_what_a_visitor_did_before_the_login_is_theirs(page: Page, shop: str, gateway) -> None:
    page.goto(shop)
    gateway.expect_event("Viewed product", {"sku": "A1"})
    gateway.expect_no_event("Viewed product", person="42")
    page.goto(f"{shop}/login")
    page.get_by_role("button", name="Log in").click()
    gateway.expect_event("Viewed product", {"sku": "A1"}, person="42")
    gateway.expect_person("42", {"email": "jo@x.io"}, devices=1)


def test_a_link_in_an_email_knows_who_clicked(page: Page, shop: str, gateway) -> None:
    page.goto(gateway.link_for("jo@x.io", f"{shop}/?utm_source=mail"))
    gateway.expect_event("Viewed product", person="jo@x.io")
    assert gateway.person("jo@x.io").tentative
    assert "vero_id" not in page.url


def test_two_browsers_of_one_person(browser: Browser, shop: str, gateway) -> None:
    for _ in range(2):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{shop}/login")
        page.get_by_role("button", name="Log in").click()
    gateway.expect_person("42", devices=2)


def test_the_login_page_asks_for_one_person(page: Page, shop: str, gateway) -> None:
    """The subscriber and the customer are one person once the page says so and nobody else can be meant."""
    page.goto(shop)
    page.evaluate("_veroq.push(['user', {email: 'jo@x.io'}]); _veroq.push(['reidentify', '42', 'jo@x.io'])")
    gateway.expect_merged("42", "jo@x.io")
    gateway.expect_no_errors()


def test_a_mistake_in_the_page_says_what_to_write(page: Page, shop: str, gateway) -> None:
    page.goto(shop)
    page.evaluate("_veroq.push(['trakc', 'Purchased'])")
    (refused,) = gateway.wait_for(gateway.refused)
    assert refused.command == ["trakc", "Purchased"]
    assert "no command 'trakc'" in refused.why
    assert "_veroq.push(['track', 'Purchased', {total: 12}])" in refused.how
