"""HTTP in, HTTP out: parse, make one call, format. Nothing is decided here."""
