"""How the devices share one step: where each array lies, and the collectives between them."""
