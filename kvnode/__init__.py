"""One storage node: records on disk, replicas on the wire, and the coordinator between them."""
