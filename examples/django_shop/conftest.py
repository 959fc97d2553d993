"""Synchronous Playwright keeps an event loop in the test's thread, and there Django's ORM works only if told to."""

import os

os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
