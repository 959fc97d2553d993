"""A Django project in one file; `VEROQ_SNIPPET` is what its pages put into their head."""

SECRET_KEY = "only for the example's tests"
ALLOWED_HOSTS = ["localhost"]
ROOT_URLCONF = "urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["django.contrib.staticfiles"]
STATIC_URL = "static/"
VEROQ_SNIPPET = ""
