"""How nodes talk: frames, a handshake, and one multiplexed connection per pair. See PROTOCOL.md."""
