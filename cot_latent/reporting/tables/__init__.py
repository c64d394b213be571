"""Tables and a plot for a paper, made from reports alone."""
