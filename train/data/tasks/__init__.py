"""Tasks to fine-tune on: prompts with completions, from their source to rows of a batch."""
