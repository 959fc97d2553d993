"""A small shop with a fake inbox, to try the gateway by hand: `gateway demo`."""
