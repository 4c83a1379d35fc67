"""What clients of the edge notice when a node fails: faults under load, with each balancer."""
