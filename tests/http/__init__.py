"""The HTTP API over real sockets on loopback."""
