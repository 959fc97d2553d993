"""With pytest-django: `live_server` serves the project, `settings` gives it the snippet of the test's gateway."""

from playwright.sync_api import Page


def test_the_account_page_says_who_is_logged_in(page: Page, live_server, settings, gateway) -> None:
    settings.VEROQ_SNIPPET = gateway.snippet_html()
    page.goto(f"{live_server.url}/account?user=42")
    gateway.expect_event("Viewed page", person="42", page="/account")
    gateway.expect_person("42", {"plan": "pro"})


def test_a_template_without_an_id_is_noticed(page: Page, live_server, settings, gateway) -> None:
    settings.VEROQ_SNIPPET = gateway.snippet_html()
    page.goto(f"{live_server.url}/account?user=None")
    gateway.expect_event("Viewed page")
    (error,) = gateway.identity_errors("blocked_identity")
    assert "'None' is a placeholder" in error["message"]
