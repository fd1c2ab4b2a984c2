"""One training step: schedule, optimizer, compiled programs and the evaluator."""
