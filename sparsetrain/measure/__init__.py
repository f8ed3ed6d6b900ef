"""What a network costs: times, memory, FLOPs."""
