"""What makes the generated pages and pictures of the documentation."""
