"""Synchronous Playwright keeps an event loop in the thread of the test, in which Django's ORM refuses to work unless told."""

import os

os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
