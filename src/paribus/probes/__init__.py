"""What a frozen encoder knows: linear and nearest-neighbour probes, and a baseline that sees only colour."""
