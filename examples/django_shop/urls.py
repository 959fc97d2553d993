"""The one page of the shop, for whoever is logged in."""

import json

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path


def account(request: HttpRequest) -> HttpResponse:
    user = json.dumps(["user", {"id": request.GET["user"], "plan": "pro"}])
    head = f"{settings.VEROQ_SNIPPET}<script>_veroq.push({user}); _veroq.push(['trackPageview'])</script>"
    return HttpResponse(f"<!doctype html><html><head>{head}</head><body>Your account</body></html>")


urlpatterns = [path("account", account)]
