"""Tools that run beside a cluster, as its clients."""
