"""What a run leaves for its readers: the report and its page."""
