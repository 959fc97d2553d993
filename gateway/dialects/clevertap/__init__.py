"""CleverTap's server API, as its clients call it."""
