"""Documents, the stream of them, and the rows they are trained in."""
