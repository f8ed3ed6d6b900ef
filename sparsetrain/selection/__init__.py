"""What is kept, exactly: patterns, groups, shares of layers, masks, schedules."""
