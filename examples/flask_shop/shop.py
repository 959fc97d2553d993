"""A Flask shop: the snippet comes from its configuration, as it would in production."""

from flask import Flask, render_template_string, request

PAGE = """<!doctype html><html><head>{{ config.SNIPPET|safe }}</head><body>{{ body|safe }}</body></html>"""


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SNIPPET"] = ""

    @app.get("/search")
    def search() -> str:
        script = "_veroq.push(['track', 'Searched', {words: new URLSearchParams(location.search).get('q')}])"
        return render_template_string(PAGE, body=f"<h1>{len(request.args['q'])}</h1><script>{script}</script>")

    return app
