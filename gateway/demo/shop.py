"""The demo shop's pages and forms. Its pages talk to the gateway as any site's do; `backend.py` is for the rest.

Its accounts, baskets and mails live in memory (`shoppers.py`); the login is a toy that believes whatever is typed.
"""

from __future__ import annotations

import csv
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jinja2
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.context import Gateway
from gateway.demo import backend, words
from gateway.demo.guide import BY_KEY, STORIES, Person, Walk
from gateway.demo.shoppers import MAX_BASKET, PRODUCTS, Account, Inbox, Shopper, Shoppers
from gateway.errors import BadRequest, GatewayError
from gateway.model import Site

HERE = Path(__file__).parent
COOKIE = "demo_session"
MAX_FORM = 16_384
MAX_ROWS = 20
EMAIL = re.compile(r"[\w.+'-]{1,64}@[\w-]{1,63}(\.[\w-]{1,63}){1,4}")

Handler = Callable[[Request, Shopper], Awaitable[Response]]


class Refused(Exception):
    """A form or address the shop cannot use; the message is shown to the person."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The demo's routes: the shop at `/`, its inbox, and the live panel's data."""
    shop = Shop(gateway)
    return [
        Route("/", shop.page(shop.landing)),
        Route("/products/{slug}", shop.page(shop.product)),
        Route("/subscribe", shop.page(shop.subscribe), methods=["POST"]),
        Route("/login", shop.page(shop.login), methods=["GET", "POST"]),
        Route("/logout", shop.page(shop.logout), methods=["POST"]),
        Route("/basket", shop.page(shop.basket), methods=["GET", "POST"]),
        Route("/buy", shop.page(shop.buy), methods=["POST"]),
        Route("/thanks", shop.page(shop.thanks)),
        Route("/inbox", shop.page(shop.inbox)),
        Route("/inbox/{mail_id:int}", shop.page(shop.mail)),
        Route("/import", shop.page(shop.import_csv), methods=["POST"]),
        Route("/demo/story/{key}", shop.page(shop.choose_story), methods=["POST"]),
        Route("/demo/fresh", shop.page(shop.fresh), methods=["POST"]),
        Route("/demo/panel.json", shop.panel),
        Mount("/demo/static", StaticFiles(directory=HERE / "static")),
    ]


class Shop:
    """The shop of one gateway: handlers, and what they remember."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.shoppers = Shoppers()
        self.mails = Inbox()
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.policies["json.dumps_kwargs"] = {"sort_keys": False}
        self.runs: dict[str, int] = {}
        self._site: Site | None = None

    async def site(self) -> Site:
        """The demo's site in the gateway, made on first use."""
        self._site = self._site or await backend.ensure_site(self.gateway)
        return self._site

    # -- around every page

    def page(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: find or begin the session, answer refusals as a page, keep the cookie."""

        async def endpoint(request: Request) -> Response:
            key = request.cookies.get(COOKIE, "")
            shopper, started = self.shoppers.get(key), False
            if shopper is None:
                key, shopper = self.shoppers.add(await self.new_walk(STORIES[0].key))
                started = True
            try:
                refuse_other_sites(request)
                response = await handler(request, shopper)
            except Refused as refused:
                response = await self.render(request, shopper, "refused.html", refused.status, message=refused.message)
            except GatewayError as error:
                message = f"The gateway says: {error.message}."
                response = await self.render(request, shopper, "refused.html", error.status, message=message)
            if started and COOKIE not in response.headers.get("set-cookie", ""):
                keep_session(request, response, key)
            return response

        return endpoint

    async def render(
        self, request: Request, shopper: Shopper, template: str, status: int = 200, **context: Any
    ) -> Response:
        """A page under a strict content security policy, with the loader snippet and its commands."""
        nonce = secrets.token_urlsafe(16)
        site = await self.site()
        html = self.templates.get_template(template).render(
            nonce=nonce,
            api_key=site.api_key,
            commands=page_commands(shopper),
            notice=shopper.take_notice(),
            shopper=shopper,
            walk=shopper.walk,
            stories=STORIES,
            products=PRODUCTS,
            unread=self.mails.unread,
            path=request.url.path,
            **context,
        )
        policy = (
            f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "strict-origin-when-cross-origin",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(html, status, headers, media_type="text/html")

    # -- the shop

    async def landing(self, request: Request, shopper: Shopper) -> Response:
        """The front page, with the subscribe form."""
        note_link(request, shopper)
        return await self.render(request, shopper, "landing.html", suggested=shopper.walk.suggestion("subscribe"))

    async def product(self, request: Request, shopper: Shopper) -> Response:
        """One product; seeing it is a track event."""
        product = PRODUCTS.get(request.path_params["slug"])
        if product is None:
            raise Refused(404, "We do not make that. Yet.")
        note_link(request, shopper)
        shopper.commands.append(["track", "Viewed product", {"product": product.name, "price": product.price}])
        return await self.render(request, shopper, "product.html", product=product)

    async def subscribe(self, request: Request, shopper: Shopper) -> Response:
        """The newsletter form: the address becomes the Unique ID of whoever this is."""
        email = email_of(await form_of(request))
        shopper.commands += [["user", {"id": email, "email": email}], ["track", "Subscribed", {"list": "Letters"}]]
        shopper.notice = f"Thank you. A letter is on its way to {email}."
        shopper.walk.record("subscribe")
        await self.send(request, email, email, "", "Welcome to the workshop", "Thank you for subscribing.")
        return back_to("/#subscribe")

    async def login(self, request: Request, shopper: Shopper) -> Response:
        """The toy login. A customer number replaces the address it was known by: that is what reidentify is for."""
        if request.method == "GET":
            return await self.render(request, shopper, "login.html", suggested=shopper.walk.suggestion("login"))
        account = account_of(await form_of(request))
        previous, shopper.account = shopper.account, account
        if account.email:
            shopper.commands.append(["reidentify", account.number, account.email])
        shopper.notice = f"Hello, {account.name or account.number}."
        shopper.walk.record("login")
        if previous and previous.number != account.number:
            shopper.walk.record("switch")
        return back_to("/")

    async def logout(self, request: Request, shopper: Shopper) -> Response:
        """Ends the shop's session, and the visitor's turn."""
        if shopper.account:
            shopper.account = None
            shopper.commands.append(["logout"])
            shopper.notice = "You are logged out."
            shopper.walk.record("logout")
        return back_to("/")

    async def basket(self, request: Request, shopper: Shopper) -> Response:
        """Shows the basket, or puts a product into it. The track command for that is pushed by the page."""
        if request.method == "GET":
            return await self.render(request, shopper, "basket.html")
        product = PRODUCTS.get((await form_of(request)).get("product", ""))
        if product is None:
            raise Refused(422, "We do not make that. Yet.")
        shopper.basket = [*shopper.basket, product.slug][:MAX_BASKET]
        shopper.walk.record("look")
        return Response(status_code=204) if request.headers.get("accept") == "application/json" else back_to("/basket")

    async def buy(self, request: Request, shopper: Shopper) -> Response:
        """Buys what is in the basket, or one product at once, and says so on the next page."""
        product = PRODUCTS.get((await form_of(request)).get("product", ""))
        bought = [product] if product else [PRODUCTS[slug] for slug in shopper.basket]
        if not bought:
            raise Refused(422, "The basket is empty.")
        total = sum(each.price for each in bought)
        names = [each.name for each in bought]
        shopper.commands.append(["track", "Purchased", {"total": total, "items": len(names), "products": names}])
        shopper.walk.record("look")
        shopper.order = bought
        if not product:
            shopper.basket = []
        if shopper.account and shopper.account.email:
            account = shopper.account
            lead = f"Your order over {total} € is being wrapped."
            await self.send(request, account.email, account.number, account.name, "Your order", lead, bought[0])
        return back_to("/thanks")

    async def thanks(self, request: Request, shopper: Shopper) -> Response:
        """What was just bought."""
        return await self.render(request, shopper, "thanks.html")

    # -- the inbox, and the side of the shop that customers do not see

    async def inbox(self, request: Request, shopper: Shopper) -> Response:
        """Every mail the shop pretended to send, and the CSV import."""
        suggested = shopper.walk.suggestion("import") or Person("Mia", "57", "mia@x.io")
        return await self.render(request, shopper, "inbox.html", mails=list(self.mails), suggested=suggested)

    async def mail(self, request: Request, shopper: Shopper) -> Response:
        """One mail, with its links."""
        mail = self.mails.get(request.path_params["mail_id"])
        if mail is None:
            raise Refused(404, "That mail is gone. The inbox forgets when the demo stops.")
        mail.read = True
        return await self.render(request, shopper, "mail.html", mail=mail)

    async def import_csv(self, request: Request, shopper: Shopper) -> Response:
        """Imports people from CSV, server-side, and sends each a welcome mail."""
        people = people_of((await form_of(request)).get("csv", ""))
        site = await self.site()
        for email, properties in people:
            await backend.import_person(self.gateway, site, email, properties)
            name = properties.get("first_name", "")
            await self.send(request, email, email, name, "Welcome to the workshop", "You are on our list now.")
        shopper.notice = f"Imported {len(people)}. A welcome mail is in the inbox."
        shopper.walk.record("import")
        return back_to("/inbox")

    async def send(
        self, request: Request, to: str, identity: str, name: str, subject: str, lead: str, product: Any = None
    ) -> None:
        """Put a mail into the inbox whose links name `identity`: twice signed, once raw."""
        product, site = product or PRODUCTS["dusk-lamp"], await self.site()
        base = self.gateway.settings.public_url or str(request.base_url).rstrip("/")
        target = f"{base}/products/{product.slug}?utm_source=inbox&utm_medium=email"
        try:
            link = backend.link(self.gateway, site, identity, target)
        except BadRequest:
            return  # no link can name this person, so there is nothing to send; the panel says what is wrong with it
        raw = backend.raw_link(site, identity, target)
        self.mails.add(
            to=to,
            name=name,
            subject=subject,
            lead=lead,
            product=product,
            redirect=link["redirect"],
            signed=link["url"],
            raw=raw,
        )

    # -- the demo around the shop

    async def choose_story(self, request: Request, shopper: Shopper) -> Response:
        """Begin a story, with people the gateway has not met."""
        if request.path_params["key"] not in BY_KEY:
            raise Refused(404, "There is no such story.")
        shopper.walk = await self.new_walk(request.path_params["key"])
        return back_to("/")

    async def new_walk(self, key: str) -> Walk:
        """A walk through a story whose cast is unknown to the gateway, so that it works every time."""
        story, site = BY_KEY[key], await self.site()
        for run in range(self.runs.get(key, 1), 1_000_000):
            cast = tuple(person.in_run(run) for person in story.cast)
            names = [name for person in cast for name in (person.number, person.email)]
            if not await backend.any_known(self.gateway, site, names):
                break
        self.runs[key] = run
        return Walk(story, cast)

    async def fresh(self, request: Request, shopper: Shopper) -> Response:
        """Become a new browser: forget the gateway's cookie and the shop's session, but not the story."""
        self.shoppers.drop(request.cookies.get(COOKIE, ""))
        shopper.walk.record("fresh")
        key, new = self.shoppers.add(shopper.walk)
        new.notice = "This is a new browser now. Nobody knows it."
        response = back_to("/")
        backend.forget_browser(response)
        keep_session(request, response, key)
        return response

    async def panel(self, request: Request) -> Response:
        """The live panel: what the gateway knows about this browser, in words."""
        panel = await backend.panel(self.gateway, await self.site(), request)
        shopper = self.shoppers.get(request.cookies.get(COOKIE, ""))
        told = words.describe(panel)
        told["unread"] = self.mails.unread
        told["basket"] = len(shopper.basket) if shopper else 0
        told["walk"] = {"story": shopper.walk.story.key, "step": shopper.walk.step} if shopper else None
        return JSONResponse(told, headers={"Cache-Control": "no-store"})


def page_commands(shopper: Shopper) -> list[list[Any]]:
    """What this page pushes after init: what was left to say, who is logged in, and the page view."""
    commands = shopper.take_commands()
    who: list[list[Any]] = []
    if shopper.account:
        known = {"id": shopper.account.number, "email": shopper.account.email, "name": shopper.account.name}
        who = [["user", {key: value for key, value in known.items() if value}]]
    first = [command for command in commands if command[0] in ("reidentify", "logout")]
    rest = [command for command in commands if command not in first]
    return [*first, *who, ["trackPageview"], *rest]


def note_link(request: Request, shopper: Shopper) -> None:
    """Notice that somebody came by a mail's link."""
    if request.query_params.get("utm_source") == "inbox":
        shopper.walk.record("link")


def keep_session(request: Request, response: Response, key: str) -> None:
    """Set the shop's own session cookie; it has nothing to do with the gateway's."""
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, key, max_age=86_400, secure=secure, httponly=True, samesite="lax")


def back_to(path: str) -> Response:
    """Answer a form with the page that follows it."""
    return RedirectResponse(path, 303)


def refuse_other_sites(request: Request) -> None:
    """Forms of other sites may not press our buttons."""
    if request.method == "POST" and request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise Refused(403, "That form belongs to another site.")


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a submitted form, at most MAX_FORM bytes of it."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise Refused(413, "That is more than this form takes.")
    try:
        fields = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise Refused(400, "That form has too many fields.") from None
    return dict(fields)


def line(text: str, limit: int) -> str:
    """One line of typed text: printable, trimmed, at most `limit` characters."""
    return "".join(char if char.isprintable() else " " for char in text).strip()[:limit].strip()


def email_of(form: dict[str, str]) -> str:
    """The form's email address, lower case."""
    email = line(form.get("email", ""), 255).lower()
    if not EMAIL.fullmatch(email):
        raise Refused(422, "That does not look like an email address.")
    return email


def account_of(form: dict[str, str]) -> Account:
    """Who the login form says this is. Any customer number will do, also `0`: see what the gateway makes of it."""
    number = line(form.get("number", ""), 80)
    if not number:
        raise Refused(422, "Type a customer number; any will do.")
    return Account(number, line(form.get("name", ""), 60), email_of(form) if form.get("email", "").strip() else "")


def people_of(text: str) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header line and an `id` column that holds an email address."""
    lines = text.strip().splitlines()[: MAX_ROWS + 2]
    try:
        rows = list(csv.DictReader(lines, restkey="", restval="", strict=True))
    except csv.Error as error:
        raise Refused(422, f"That is not CSV: {error}.") from None
    if not rows or len(rows) > MAX_ROWS:
        raise Refused(422, f"The file needs a header line and 1 to {MAX_ROWS} rows.")
    return [(email_of({"email": row.get("id") or ""}), person_properties(row)) for row in rows]


def person_properties(row: dict[str, Any]) -> dict[str, str]:
    """The other columns of a row."""
    return {
        line(key, 40): line(value, 120)
        for key, value in list(row.items())[:20]
        if key and key != "id" and isinstance(value, str) and value.strip()
    }
