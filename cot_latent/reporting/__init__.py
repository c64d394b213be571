"""The output of a run for its readers: the report and its page."""
