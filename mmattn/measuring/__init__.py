"""What models cost, and where they look: multiply-adds, time, memory, points on objects."""
