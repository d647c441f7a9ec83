"""What runs the stages and cannot change a result: DVC does not track it, and a test holds that."""
