"""Search: selection rules, algorithms over them, and the driver that runs them."""
