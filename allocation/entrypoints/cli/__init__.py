"""What the people who run the service reach for: each module is one group of commands."""
