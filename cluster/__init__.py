"""Who is in the cluster, who owns what, and how a local cluster is started and watched."""
