"""What a run leaves and says: its folder, its log, its progress."""
