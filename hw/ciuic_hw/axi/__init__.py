"""AXI: bus signatures, the ports that engines use, and the channels that serve them."""
