"""One page each, top to bottom as on screen."""
