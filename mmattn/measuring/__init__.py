"""What models cost, where they look, how they trained and what they confuse: multiply-adds, time, memory, points on
objects, logs, predictions."""
