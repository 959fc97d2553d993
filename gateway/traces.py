"""OpenTelemetry traces of requests and of the commits that make them durable. Needs the extra `otel`.

A request's span goes on the caller's trace; its child `durable` lasts until the commit; one span `group commit` is
linked to all requests that shared it. No span holds a path with an id in it, a query, an address or a value.
"""

from __future__ import annotations

from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import __version__
from gateway.identity.engine import Engine, Reply, Request
from gateway.identity.requests import Operation
from gateway.logs import route_of
from gateway.metrics import door
from gateway.settings import Settings
from gateway.store.base import Store
from gateway.writer import Waiting, Writer


def exporter(settings: Settings) -> SpanProcessor:
    """What sends spans to the collector, in batches, aside from requests."""
    endpoint = settings.otlp_endpoint
    if not endpoint.endswith("/v1/traces"):
        endpoint = f"{endpoint}/v1/traces"
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))


class Traces:
    """One process's tracing; `processor` is given every span that ended."""

    def __init__(self, processor: SpanProcessor) -> None:
        resource = Resource.create({"service.name": "veroq-gateway", "service.version": __version__})
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(processor)
        self.tracer = self.provider.get_tracer("gateway", __version__)

    def writer(self, store: Store, engine: Engine) -> Writer:
        """A writer whose commits are traced."""
        return TracedWriter(store, engine, self.tracer)

    def requests(self, app: ASGIApp) -> ASGIApp:
        """The application with a span around each request."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"] if k in PROPAGATED}
            caller = propagate.extract(headers)
            name = f"{scope['method']} {door(scope['path'])}"
            with self.tracer.start_as_current_span(name, caller, SpanKind.SERVER, record_exception=False) as span:
                span.set_attribute("http.request.method", scope["method"])

                async def noted(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                        if message["status"] >= 500:
                            span.set_status(Status(StatusCode.ERROR))
                    await send(message)

                await app(scope, receive, noted)
                if (route := route_of(scope)) != "-":
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attribute("http.route", route)

        return traced

    def close(self) -> None:
        """Sends what has not been sent yet."""
        self.provider.shutdown()


PROPAGATED = (b"traceparent", b"tracestate")


class TracedWriter(Writer):
    """Group commit with spans. What is under way is known by the request's identity, for no longer than it waits."""

    def __init__(self, store: Store, engine: Engine, tracer: trace.Tracer) -> None:
        super().__init__(store, engine)
        self.tracer = tracer
        self.spans: dict[int, SpanContext] = {}

    async def _submit(self, request: Request) -> Reply:
        with self.tracer.start_as_current_span("durable", record_exception=False) as span:
            if isinstance(request, Operation):
                span.set_attribute("gateway.operation", request.kind)
            else:
                span.set_attribute("gateway.commands", len(request.commands))
            self.spans[id(request)] = span.get_span_context()
            try:
                return await super()._submit(request)
            finally:
                del self.spans[id(request)]

    async def _commit(self, group: list[Waiting]) -> None:
        waiting = [self.spans[id(w.request)] for w in group if id(w.request) in self.spans]
        attributes: dict[str, Any] = {"gateway.requests": len(group)}
        links = [Link(context) for context in waiting]
        with self.tracer.start_as_current_span("group commit", links=links, attributes=attributes):
            await super()._commit(group)
