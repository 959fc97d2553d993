"""With selenium: any driver will do, the gateway is a server like any other."""

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as started:
        yield started


def test_a_login_takes_along_what_was_seen_before(driver: webdriver.Chrome, shop: str, gateway) -> None:
    driver.get(shop)
    driver.find_element(By.LINK_TEXT, "Log in").click()
    driver.find_element(By.ID, "login").click()
    gateway.expect_event("Viewed product", {"sku": "A1"}, person="42")
    gateway.expect_person("42", {"email": "jo@x.io"}, devices=1)


def test_each_test_has_a_gateway_of_its_own(driver: webdriver.Chrome, shop: str, gateway) -> None:
    """The browser is the same as before and shows its old cookie; this gateway has never seen it."""
    driver.get(f"{shop}/checkout")
    driver.find_element(By.ID, "pay").click()
    purchase = gateway.expect_event("Purchased", {"total": 12})
    assert purchase["person"]["identities"] == []
    assert not gateway.person("42").exists
