"""The loss of the next token: whole, or a piece of the sequence at a time."""
