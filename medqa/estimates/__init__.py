"""What a run will cost, before it starts: time, memory, disk and downloads of each stage."""
