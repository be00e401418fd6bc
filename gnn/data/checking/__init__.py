"""What frames tell of themselves: signs and units of labels, copies, statistics."""
