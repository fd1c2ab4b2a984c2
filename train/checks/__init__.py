"""What a compiled program does: memory, FLOPs, bytes moved and sent, and the time they need."""
