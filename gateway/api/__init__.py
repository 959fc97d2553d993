"""The native API: declared calls, their handlers, and the OpenAPI document made from the same declarations."""
